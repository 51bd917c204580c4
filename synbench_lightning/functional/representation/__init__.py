"""What the features of an encoder tell about inputs or labels."""

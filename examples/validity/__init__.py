"""Parts of the validity study: what is pretrained, what is measured, what follows."""

"""What is a label worth? Nine kinds of tissue from 45 to 600 labels, with and without unlabelled images."""

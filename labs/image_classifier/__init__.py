"""Medical image classifier: from a folder of images and their labels to a trained model and its predictions."""

"""Networks: torchvision's classifiers, fitted to the images and classes at hand."""

"""The full life of a medical model on MedMNIST: volumes, augmentation, transfer, attention, quantization, ResNet."""

"""Homework 5: chest X-rays of PneumoniaMNIST, from loading to Grad-CAM."""

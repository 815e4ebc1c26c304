from image_classifier.commands import train

if __name__ == "__main__":
    train()

from image_classifier.engine.launch.commands import train_command

if __name__ == "__main__":
    train_command()

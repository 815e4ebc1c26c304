from image_classifier.cli import eval_command

if __name__ == "__main__":
    eval_command()

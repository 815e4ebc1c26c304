from image_classifier.engine.launch.commands import eval_command

if __name__ == "__main__":
    eval_command()

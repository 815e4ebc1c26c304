from image_classifier.engine.launch.commands import export_command

if __name__ == "__main__":
    export_command()

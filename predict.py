from image_classifier.engine.launch.commands import predict_command

if __name__ == "__main__":
    predict_command()

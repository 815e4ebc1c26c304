from image_classifier.cli import predict_command

if __name__ == "__main__":
    predict_command()

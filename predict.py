from image_classifier.commands import predict

if __name__ == "__main__":
    predict()

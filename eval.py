from image_classifier.commands import evaluate

if __name__ == "__main__":
    evaluate()

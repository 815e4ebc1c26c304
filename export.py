from image_classifier.commands import export

if __name__ == "__main__":
    export()

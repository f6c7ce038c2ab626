"""Models that make vectors of images and captions, one file a library and kind; ``loading.py`` knows them apart."""

"""Files: written aside and renamed, read without trust; ids of images and captions. Knows no data set."""

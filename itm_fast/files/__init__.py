"""Files: written aside and renamed, read without trust; text, ids, owners. Knows no data set."""

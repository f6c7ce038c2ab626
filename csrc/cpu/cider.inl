// CIDEr: a caption's features against the lists of a block of images. Work per caption: a few tens of lists, of which
// the frequent words' are dense (one weight per image) and vectorised.

void cider_sums(const ReferenceLists& references, const int32_t* lists, const double* factors, int64_t n,
                double* sums) {
  for (int64_t i = 0; i < references.width; i++) sums[i] = 0;
  for (int64_t k = 0; k < n; k++) {
    const int32_t list = lists[k];
    const double factor = factors[k];
    const int64_t begin = references.begin[list], end = references.begin[list + 1];
    const double* weights = references.weights;
    if (references.dense[list]) {
      const Vec<double> wide = splat(factor);
      for (int64_t i = 0; i < references.width; i += kLanes<double>)
        store(sums + i, load(sums + i) + wide * load(weights + begin + i));
    } else {
      for (int64_t i = begin; i < end; i++) sums[references.images[i]] += factor * weights[i];
    }
  }
}

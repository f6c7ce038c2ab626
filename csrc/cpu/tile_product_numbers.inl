// Tile products of float32 and float64.

template <class T>
void tile_product(int64_t m, int64_t n, int64_t k, int64_t run, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                  int64_t ldc, bool accumulate) {
  tile_product_impl::product<tile_product_impl::Numbers<T>>(m, n, k, run, a, lda, b, ldb, c, ldc, accumulate);
}

template void tile_product<float>(int64_t, int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t,
                                  float*, int64_t, bool);
template void tile_product<double>(int64_t, int64_t, int64_t, int64_t, const double*, int64_t, const double*, int64_t,
                                   double*, int64_t, bool);

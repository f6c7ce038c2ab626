// The Gram matrix against a block of attention columns: a^T G a, G a, and the sum of w a a^T; four context rows at a
// time.

// Vectors of columns held in registers beside four rows: as many as the register file takes.
constexpr int kGramVectors = VEC_BYTES == 64 ? 4 : 2;

template <class T, int vectors>
ITM_INLINE void gram_rows(const T* gram, int64_t gram_stride, int64_t first, int64_t last, const T* a, int64_t stride,
                          Vec<T> (&sum)[4][vectors]) {
  for (int64_t c = first; c < last; c++) {
    Vec<T> column[vectors];
    for (int v = 0; v < vectors; v++) column[v] = load(a + c * stride + v * kLanes<T>);
    for (int i = 0; i < 4; i++)
      for (int v = 0; v < vectors; v++) sum[i][v] += gram[i * gram_stride + c] * column[v];
  }
}

template <class T, int vectors>
ITM_INLINE void quadratic_columns(const Tile<T>& tile, const T* a, int64_t context, T* quadratic) {
  Vec<T> total[vectors] = {};
  for (int64_t row = 0; row < context; row += 4) {
    Vec<T> sum[4][vectors] = {};
    const T* gram = tile.gram + row * tile.gram_stride;
    gram_rows<T, vectors>(gram, tile.gram_stride, 0, row, a, tile.stride, sum);
    for (int i = 0; i < 4; i++)
      for (int v = 0; v < vectors; v++)
        sum[i][v] *= T(2);  // G is symmetric: the blocks left of the diagonal count twice
    gram_rows<T, vectors>(gram, tile.gram_stride, row, row + 4, a, tile.stride, sum);
    for (int i = 0; i < 4; i++)
      for (int v = 0; v < vectors; v++) total[v] += sum[i][v] * load(a + (row + i) * tile.stride + v * kLanes<T>);
  }
  for (int v = 0; v < vectors; v++) store(quadratic + v * kLanes<T>, total[v]);
}

// quadratic[q] = a_q^T G a_q, a [context, stride] with context a multiple of 4.
template <class T>
void gram_quadratic(const Tile<T>& tile, const T* a, int64_t context, T* quadratic) {
  constexpr int64_t step = kGramVectors * kLanes<T>;
  int64_t q = 0;
  for (; q + step <= tile.n_columns; q += step) quadratic_columns<T, kGramVectors>(tile, a + q, context, quadratic + q);
  for (; q < tile.n_columns; q += kLanes<T>) quadratic_columns<T, 1>(tile, a + q, context, quadratic + q);
}

template <class T, int vectors>
ITM_INLINE void product_columns(const Tile<T>& tile, const T* a, int64_t context, T* product, T* quadratic) {
  Vec<T> total[vectors] = {};
  for (int64_t row = 0; row < context; row += 4) {
    Vec<T> sum[4][vectors] = {};
    gram_rows<T, vectors>(tile.gram + row * tile.gram_stride, tile.gram_stride, 0, context, a, tile.stride, sum);
    for (int i = 0; i < 4; i++)
      for (int v = 0; v < vectors; v++) {
        const int64_t at = (row + i) * tile.stride + v * kLanes<T>;
        store(product + at, sum[i][v]);
        total[v] += sum[i][v] * load(a + at);
      }
  }
  for (int v = 0; v < vectors; v++) store(quadratic + v * kLanes<T>, total[v]);
}

// product = G a [context, stride] and quadratic[q] = a_q^T G a_q.
template <class T>
void gram_product(const Tile<T>& tile, const T* a, int64_t context, T* product, T* quadratic) {
  constexpr int64_t step = kGramVectors * kLanes<T>;
  int64_t q = 0;
  for (; q + step <= tile.n_columns; q += step)
    product_columns<T, kGramVectors>(tile, a + q, context, product + q, quadratic + q);
  for (; q < tile.n_columns; q += kLanes<T>) product_columns<T, 1>(tile, a + q, context, product + q, quadratic + q);
}

// tile.grad_gram += sum over q of weight[q] a_q a_q^T. Columns from n_columns to the vector's end must have weight 0.
template <class T>
void gram_accumulate(const Tile<T>& tile, const T* a, int64_t context, const T* weight) {
  constexpr int other = VEC_BYTES == 64 ? 4 : 2;
  for (int64_t row = 0; row < context; row += 4)
    for (int64_t column = 0; column < row + 4; column += other) {
      Vec<T> sum[4][other] = {};
      for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
        Vec<T> right[other];
        for (int j = 0; j < other; j++) right[j] = load(a + (column + j) * tile.stride + q);
        const Vec<T> w = load(weight + q);
        for (int i = 0; i < 4; i++) {
          const Vec<T> left = w * load(a + (row + i) * tile.stride + q);
          for (int j = 0; j < other; j++) sum[i][j] += left * right[j];
        }
      }
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < other; j++) {
          const T value = sum_of_lanes<T>(sum[i][j]);
          tile.grad_gram[(row + i) * tile.gram_stride + column + j] += value;
          if (column < row) tile.grad_gram[(column + j) * tile.gram_stride + row + i] += value;
        }
    }
}

// The Gram matrix against a block of attention columns: a^T G a, G a, and the sum of w a a^T. A long context is cut
// into blocks of kGramRows rows: what lies beside the diagonal blocks is a tile product, a diagonal block is summed
// four rows at a time. Up to kGramRows rows there is nothing but the one diagonal block.

// Vectors of columns held in registers beside four rows: as many as the register file takes.
constexpr int kGramVectors = VEC_BYTES == 64 ? 4 : 2;
constexpr int64_t kGramRows = 64;  // a multiple of the width of every panel
constexpr int64_t kGramRun = 128;  // numbers that a sum of a tile product runs over at a time

// product [rows, stride] = gram [rows, k] . a [k, stride], whole vectors of columns.
template <class T>
void gram_rows_product(const Tile<T>& tile, int64_t rows, int64_t k, const T* gram, const T* a, T* product) {
  const int64_t n_columns = (tile.n_columns + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  tile_product_impl::product_of_rows<tile_product_impl::Numbers<T>>(
      rows, n_columns, k, kGramRun, gram, tile.gram_stride, a, tile.stride, product, tile.stride, false);
}

// quadratic[q] += factor times the sum over the rows of a product
template <class T>
void add_dots(const Tile<T>& tile, int64_t rows, T factor, const T* a, const T* product, T* quadratic) {
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    Vec<T> total{};
    for (int64_t row = 0; row < rows; row++)
      total += load(a + row * tile.stride + q) * load(product + row * tile.stride + q);
    store(quadratic + q, load(quadratic + q) + factor * total);
  }
}

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

// quadratic += a^T gram a of a diagonal block.
template <class T, int vectors>
ITM_INLINE void quadratic_columns(const Tile<T>& tile, const T* diagonal, const T* a, int64_t rows, T* quadratic) {
  Vec<T> total[vectors];
  for (int v = 0; v < vectors; v++) total[v] = load(quadratic + v * kLanes<T>);
  for (int64_t row = 0; row < rows; row += 4) {
    Vec<T> sum[4][vectors] = {};
    const T* gram = diagonal + row * tile.gram_stride;
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

// quadratic[q] = a_q^T G a_q, a [context, stride] with context a multiple of 4; work [context, stride].
template <class T>
void gram_quadratic(const Tile<T>& tile, const T* a, int64_t context, T* quadratic, T* work) {
  constexpr int64_t step = kGramVectors * kLanes<T>;
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) store(quadratic + q, Vec<T>{});
  for (int64_t first = 0; first < context; first += kGramRows) {
    const int64_t rows = std::min(kGramRows, context - first);
    const T *gram = tile.gram + first * tile.gram_stride, *own = a + first * tile.stride;
    if (first > 0) {
      gram_rows_product<T>(tile, rows, first, gram, a, work);
      add_dots<T>(tile, rows, T(2), own, work, quadratic);
    }
    int64_t q = 0;
    for (; q + step <= tile.n_columns; q += step)
      quadratic_columns<T, kGramVectors>(tile, gram + first, own + q, rows, quadratic + q);
    for (; q < tile.n_columns; q += kLanes<T>)
      quadratic_columns<T, 1>(tile, gram + first, own + q, rows, quadratic + q);
  }
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
  if (context > kGramRows) {
    for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) store(quadratic + q, Vec<T>{});
    for (int64_t first = 0; first < context; first += kGramRows) {
      const int64_t rows = std::min(kGramRows, context - first), at = first * tile.stride;
      gram_rows_product<T>(tile, rows, context, tile.gram + first * tile.gram_stride, a, product + at);
      add_dots<T>(tile, rows, T(1), a + at, product + at, quadratic);
    }
    return;
  }
  constexpr int64_t step = kGramVectors * kLanes<T>;
  int64_t q = 0;
  for (; q + step <= tile.n_columns; q += step)
    product_columns<T, kGramVectors>(tile, a + q, context, product + q, quadratic + q);
  for (; q < tile.n_columns; q += kLanes<T>) product_columns<T, 1>(tile, a + q, context, product + q, quadratic + q);
}

// A diagonal block of the sum below.
template <class T>
void accumulate_diagonal(const Tile<T>& tile, const T* a, int64_t rows, const T* weight, T* diagonal) {
  constexpr int other = VEC_BYTES == 64 ? 4 : 2;
  for (int64_t row = 0; row < rows; row += 4)
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
          diagonal[(row + i) * tile.gram_stride + column + j] += value;
          if (column < row) diagonal[(column + j) * tile.gram_stride + row + i] += value;
        }
    }
}

// tile.grad_gram, which is symmetric, += sum over q of weight[q] a_q a_q^T. Columns from n_columns to the vector's end
// must have weight 0. weighted and turned: [context, stride] to work in.
template <class T>
void gram_accumulate(const Tile<T>& tile, const T* a, int64_t context, const T* weight, T* weighted, T* turned) {
  using namespace tile_product_impl;
  constexpr int64_t panel = kVectorsAtOnce * kLanes<T>;
  static_assert(kGramRows % panel == 0);
  for (int64_t first = 0; first + kGramRows < context; first += kGramRows)
    for (int64_t row = first; row < first + kGramRows; row += panel)
      turn_block<T>(panel, tile.n_columns, a + row * tile.stride, tile.stride, turned + row * tile.n_columns, panel);
  for (int64_t first = 0; first < context; first += kGramRows) {
    const int64_t rows = std::min(kGramRows, context - first);
    const T* own = a + first * tile.stride;
    T* grad = tile.grad_gram + first * tile.gram_stride;
    accumulate_diagonal<T>(tile, own, rows, weight, grad + first);
    if (first == 0) continue;
    for (int64_t row = 0; row < rows; row++)
      for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>)
        store(weighted + row * tile.stride + q, load(weight + q) * load(own + row * tile.stride + q));
    product_of_panels<Numbers<T>, false>(rows, first, tile.n_columns, tile.n_columns, weighted, tile.stride, turned,
                                         grad, tile.gram_stride, true);
    turn_block<T>(rows, first, grad, tile.gram_stride, tile.grad_gram + first, tile.gram_stride);
  }
}

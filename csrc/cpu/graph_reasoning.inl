// The graph of one pair: a dozen nodes, so that products between them are small next to those with the weights.

namespace graph_reasoning_impl {

// out[i, j] = <a_i, b_j>, four j at a time.
template <class T>
void products(int64_t n, int64_t m, int64_t width, const T* a, const T* b, T* out) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < m; j += 4) {
      const int64_t count = std::min<int64_t>(4, m - j);
      const T* x = a + i * width;
      const T* y[4];
      for (int64_t l = 0; l < 4; l++) y[l] = b + (j + std::min(l, count - 1)) * width;
      Vec<T> sum[4] = {};
      int64_t d = 0;
      for (; d + kLanes<T> <= width; d += kLanes<T>)
        for (int64_t l = 0; l < 4; l++) sum[l] += load(x + d) * load(y[l] + d);
      for (int64_t l = 0; l < count; l++) {
        T total = sum_of_lanes<T>(sum[l]);
        for (int64_t e = d; e < width; e++) total += x[e] * y[l][e];
        out[i * m + j + l] = total;
      }
    }
}

// out_i (+)= sum over j of weights[i * row_stride + j * column_stride] x_j.
template <class T>
void mix(int64_t n, int64_t m, int64_t width, const T* weights, int64_t row_stride, int64_t column_stride, const T* x,
         T* out, bool accumulate) {
  constexpr int64_t step = 4 * kLanes<T>;
  for (int64_t i = 0; i < n; i++) {
    const T* w = weights + i * row_stride;
    T* to = out + i * width;
    int64_t d = 0;
    for (; d + step <= width; d += step) {
      Vec<T> sum[4] = {};
      for (int64_t l = 0; l < 4 && accumulate; l++) sum[l] = load(to + d + l * kLanes<T>);
      for (int64_t j = 0; j < m; j++)
        for (int64_t l = 0; l < 4; l++) sum[l] += w[j * column_stride] * load(x + j * width + d + l * kLanes<T>);
      for (int64_t l = 0; l < 4; l++) store(to + d + l * kLanes<T>, sum[l]);
    }
    for (; d < width; d++) {
      T sum = accumulate ? to[d] : T(0);
      for (int64_t j = 0; j < m; j++) sum += w[j * column_stride] * x[j * width + d];
      to[d] = sum;
    }
  }
}

}  // namespace graph_reasoning_impl

// edges [rows, nodes] = softmax of queries . x^T along the nodes; mixed [rows, width] = edges . x
template <class T>
void graph_edges(int64_t rows, int64_t nodes, int64_t width, const T* queries, const T* x, T* edges, T* mixed) {
  graph_reasoning_impl::products<T>(rows, nodes, width, queries, x, edges);
  for (int64_t i = 0; i < rows; i++) {
    T* e = edges + i * nodes;
    const T most = *std::max_element(e, e + nodes);
    T sum = 0;
    for (int64_t j = 0; j < nodes; j++) sum += e[j] = std::exp(e[j] - most);
    for (int64_t j = 0; j < nodes; j++) e[j] /= sum;
  }
  graph_reasoning_impl::mix<T>(rows, nodes, width, edges, nodes, 1, x, mixed, false);
}

// Overwrites grad_queries [rows, width] and grad_x [nodes, width]. scratch: rows * nodes numbers.
template <class T>
void graph_edges_backward(int64_t rows, int64_t nodes, int64_t width, const T* queries, const T* x, const T* edges,
                          const T* grad_mixed, T* grad_queries, T* grad_x, T* scratch) {
  using namespace graph_reasoning_impl;
  products<T>(rows, nodes, width, grad_mixed, x, scratch);
  mix<T>(nodes, rows, width, edges, 1, nodes, grad_mixed, grad_x, false);
  for (int64_t i = 0; i < rows; i++) {
    const T* e = edges + i * nodes;
    T* grad = scratch + i * nodes;
    T mean = 0;
    for (int64_t j = 0; j < nodes; j++) mean += e[j] * grad[j];
    for (int64_t j = 0; j < nodes; j++) grad[j] = e[j] * (grad[j] - mean);
  }
  mix<T>(rows, nodes, width, scratch, nodes, 1, x, grad_queries, false);
  mix<T>(nodes, rows, width, scratch, 1, nodes, queries, grad_x, true);
}

template <class T>
void add_bias(int64_t rows, int64_t width, const T* bias, bool relu, T* x) {
  for (int64_t row = 0; row < rows; row++, x += width)
    for (int64_t d = 0; d < width; d++) {
      const T sum = x[d] + bias[d];
      x[d] = relu && sum <= T(0) ? T(0) : sum;  // NaN stays
    }
}

// Sums over the rows are made apart and then added: few roundings even where many tiles add to one sum.
template <class T>
void column_sums(int64_t rows, int64_t width, const T* x, T* sums) {
  constexpr int64_t step = 64;
  for (int64_t first = 0; first < width; first += step) {
    const int64_t n = std::min(step, width - first);
    T sum[step] = {};
    for (int64_t row = 0; row < rows; row++)
      for (int64_t d = 0; d < n; d++) sum[d] += x[row * width + first + d];
    for (int64_t d = 0; d < n; d++) sums[first + d] += sum[d];
  }
}

// grad <- 0 where x is not above 0; its sums over the rows are added to grad_bias.
template <class T>
void relu_backward(int64_t rows, int64_t width, const T* x, T* grad, T* grad_bias) {
  for (int64_t i = 0; i < rows * width; i++) grad[i] = x[i] <= T(0) ? T(0) : grad[i];
  column_sums<T>(rows, width, grad, grad_bias);
}

#define ITM_INSTANTIATE(T)                                                                                         \
  template void graph_edges<T>(int64_t, int64_t, int64_t, const T*, const T*, T*, T*);                             \
  template void graph_edges_backward<T>(int64_t, int64_t, int64_t, const T*, const T*, const T*, const T*, T*, T*, \
                                        T*);                                                                       \
  template void add_bias<T>(int64_t, int64_t, const T*, bool, T*);                                                 \
  template void relu_backward<T>(int64_t, int64_t, const T*, T*, T*);                                              \
  template void column_sums<T>(int64_t, int64_t, const T*, T*);
ITM_INSTANTIATE(float)
ITM_INSTANTIATE(double)
#undef ITM_INSTANTIATE

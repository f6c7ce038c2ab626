// A lane is a channel: its numbers are sorted by a network, whose comparisons do not depend on them. A sort of one
// channel at a time could not be vectorised at all.

namespace generalised_pooling_impl {

// One channel block: `lanes` of the rows' numbers at `from`, a full vector of them; the rest of it is 0.
template <class T>
ITM_INLINE Vec<T> load_lanes(const T* from, int64_t lanes) {
  if (lanes == kLanes<T>) return load(from);
  Vec<T> x{};
  for (int64_t l = 0; l < lanes; l++) x[l] = from[l];
  return x;
}
template <class T>
ITM_INLINE void store_lanes(T* to, Vec<T> x, int64_t lanes) {
  if (lanes == kLanes<T>) return store(to, x);
  for (int64_t l = 0; l < lanes; l++) to[l] = x[l];
}

}  // namespace generalised_pooling_impl

// pooled [dim] = sum over k of theta[k] times the k-th largest of each column of vectors [count, dim]
template <class T>
void generalised_pooling(const Network& network, int64_t count, int64_t dim, const T* vectors, const T* theta,
                         T* pooled, T* scratch) {
  using namespace generalised_pooling_impl;
  for (int64_t d = 0; d < dim; d += kLanes<T>) {
    const int64_t lanes = std::min(kLanes<T>, dim - d);
    for (int64_t i = 0; i < count; i++) store(scratch + i * kLanes<T>, load_lanes(vectors + i * dim + d, lanes));
    for (int64_t e = 0; e < network.n_exchanges; e++) {
      const int64_t i = network.exchanges[e].first, j = network.exchanges[e].second;
      const Vec<T> a = load(scratch + i * kLanes<T>), b = load(scratch + j * kLanes<T>);
      const Mask<T> swap = b > a;  // both stay, whichever way a NaN compares
      store<T>(scratch + i * kLanes<T>, swap ? b : a);
      store<T>(scratch + j * kLanes<T>, swap ? a : b);
    }
    Vec<T> sum{};
    for (int64_t k = 0; k < count; k++) sum += theta[k] * load(scratch + k * kLanes<T>);
    store_lanes(pooled + d, sum, lanes);
  }
}

// Overwrites grad_vectors [count, dim] and grad_theta [count]; equal numbers rank by their place.
template <class T>
void generalised_pooling_backward(const Network& network, int64_t count, int64_t dim, const T* vectors, const T* theta,
                                  const T* grad, T* grad_vectors, T* grad_theta, T* scratch) {
  using namespace generalised_pooling_impl;
  Lane<T>* places = reinterpret_cast<Lane<T>*>(scratch + count * kLanes<T>);
  for (int64_t k = 0; k < count; k++) grad_theta[k] = 0;
  for (int64_t d = 0; d < dim; d += kLanes<T>) {
    const int64_t lanes = std::min(kLanes<T>, dim - d);
    for (int64_t i = 0; i < count; i++) {
      store(scratch + i * kLanes<T>, load_lanes(vectors + i * dim + d, lanes));
      store_mask<T>(places + i * kLanes<T>, Mask<T>{} + Lane<T>(i));
    }
    for (int64_t e = 0; e < network.n_exchanges; e++) {
      const int64_t i = network.exchanges[e].first, j = network.exchanges[e].second;
      const Vec<T> a = load(scratch + i * kLanes<T>), b = load(scratch + j * kLanes<T>);
      const Mask<T> of_a = load_mask<T>(places + i * kLanes<T>), of_b = load_mask<T>(places + j * kLanes<T>);
      const Mask<T> swap = (b > a) | ((b == a) & (of_b < of_a));
      store<T>(scratch + i * kLanes<T>, swap ? b : a);
      store<T>(scratch + j * kLanes<T>, swap ? a : b);
      store_mask<T>(places + i * kLanes<T>, swap ? of_b : of_a);
      store_mask<T>(places + j * kLanes<T>, swap ? of_a : of_b);
    }
    const Vec<T> g = load_lanes(grad + d, lanes);
    for (int64_t k = 0; k < count; k++) {
      grad_theta[k] += sum_of_lanes<T>(g * load(scratch + k * kLanes<T>));  // lanes beyond the last channel are 0
      const Vec<T> routed = theta[k] * g;
      for (int64_t l = 0; l < lanes; l++) grad_vectors[places[k * kLanes<T> + l] * dim + d + l] = routed[l];
    }
  }
}

#define ITM_INSTANTIATE(T)                                                                                          \
  template void generalised_pooling<T>(const Network&, int64_t, int64_t, const T*, const T*, T*, T*);               \
  template void generalised_pooling_backward<T>(const Network&, int64_t, int64_t, const T*, const T*, const T*, T*, \
                                                T*, T*);
ITM_INSTANTIATE(float)
ITM_INSTANTIATE(double)
#undef ITM_INSTANTIATE

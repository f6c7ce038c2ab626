// torch.ops.itm_fast.generalised_pooling: schema and CPU registration. Contract: itm_fast/ops/generalised_pooling.py.
#include "../cpu/generalised_pooling.h"

#include <map>
#include <vector>

#include "../cpu/parallel.h"

namespace itm {
namespace {

using Exchanges = std::vector<Exchange>;

// Batcher's odd-even merge sort of n numbers. What the network of the next power of two would compare beyond the last
// number is left out: the smallest would be there already.
Exchanges sorting_network(int64_t n) {
  Exchanges network;
  for (int64_t run = 1; run < n; run *= 2)
    for (int64_t k = run; k >= 1; k /= 2)
      for (int64_t j = k % run; j + k < n; j += 2 * k)
        for (int64_t i = j; i < j + k && i + k < n; i++)
          if (i / (2 * run) == (i + k) / (2 * run)) network.push_back({int32_t(i), int32_t(i + k)});
  return network;
}

// Contiguous operands, checked, and a network for every size that occurs.
struct Sets {
  Tensor vectors, theta, counts;
  int64_t size, most, dim;
  std::map<int64_t, Exchanges> networks;

  Sets(const Tensor& v, const Tensor& t, const Tensor& c)
      : vectors(as_contiguous(v)), theta(as_contiguous(t)), counts(as_contiguous(c)) {
    ITM_CHECK_VALUE(v.dim() == 3, "vectors must have shape (n, max, dim), got ", shape_of(v));
    size = v.size(0), most = v.size(1), dim = v.size(2);
    ITM_CHECK_VALUE(t.dim() == 2 && t.size(0) == v.size(0) && t.size(1) == v.size(1), "theta must have shape (",
                    v.size(0), ", ", v.size(1), "), got ", shape_of(t));
    ITM_CHECK_VALUE(c.dim() == 1 && c.size(0) == v.size(0), "counts must have shape (", v.size(0), ",), got ",
                    shape_of(c));
    ITM_CHECK_TYPE(c.scalar_type() == ScalarType::Long, "counts must be int64, got ", c.scalar_type());
    ITM_CHECK_TYPE(v.scalar_type() == t.scalar_type() &&
                       (v.scalar_type() == ScalarType::Float || v.scalar_type() == ScalarType::Double),
                   "vectors and theta must be both float32 or both float64, got ", v.scalar_type(), " and ",
                   t.scalar_type());
    sizes = counts.const_data_ptr<int64_t>();
    for (int64_t s = 0; s < size; s++) {
      ITM_CHECK_VALUE(count(s) >= 1 && count(s) <= most, "counts[", s, "] is ", count(s), ", but sets have 1 to ", most,
                      " vectors");
      if (networks.find(count(s)) == networks.end()) networks[count(s)] = sorting_network(count(s));
    }
  }

  int64_t count(int64_t s) const { return sizes[s]; }

  // pool(set, its network, scratch) for all sets, on all threads
  template <class T, class Pool>
  void each(const Pool& pool) const {
    double exchanges = 0;
    for (int64_t s = 0; s < size; s++) exchanges += networks.at(count(s)).size() + count(s);
    parallel_workers(size, exchanges * dim * kScanWork, [&](auto next) {
      std::vector<T> scratch(generalised_pooling_scratch(most));
      for (int64_t s = next(); s >= 0; s = next()) {
        const Exchanges& exchanges = networks.at(count(s));
        pool(s, Network{exchanges.data(), int64_t(exchanges.size())}, scratch.data());
      }
    });
  }

 private:
  const int64_t* sizes;  // what `counts` holds
};

template <class T>
void forward(const Sets& sets, T* pooled) {
  auto pool = ITM_PICK(generalised_pooling<T>);
  const T *vectors = sets.vectors.const_data_ptr<T>(), *theta = sets.theta.const_data_ptr<T>();
  const int64_t most = sets.most, dim = sets.dim;
  sets.each<T>([&](int64_t s, const Network& network, T* scratch) {
    pool(network, sets.count(s), dim, vectors + s * most * dim, theta + s * most, pooled + s * dim, scratch);
  });
}

template <class T>
void backward(const Sets& sets, const T* grad, T* grad_vectors, T* grad_theta) {
  auto pool = ITM_PICK(generalised_pooling_backward<T>);
  const T *vectors = sets.vectors.const_data_ptr<T>(), *theta = sets.theta.const_data_ptr<T>();
  const int64_t most = sets.most, dim = sets.dim;
  sets.each<T>([&](int64_t s, const Network& network, T* scratch) {
    pool(network, sets.count(s), dim, vectors + s * most * dim, theta + s * most, grad + s * dim,
         grad_vectors + s * most * dim, grad_theta + s * most, scratch);
  });
}

Tensor generalised_pooling_cpu(const Tensor& vectors, const Tensor& theta, const Tensor& counts) {
  const Sets sets(vectors, theta, counts);
  Tensor pooled = empty({sets.size, sets.dim}, vectors.scalar_type());
  if (vectors.scalar_type() == ScalarType::Double)
    forward<double>(sets, pooled.mutable_data_ptr<double>());
  else
    forward<float>(sets, pooled.mutable_data_ptr<float>());
  return pooled;
}

std::tuple<Tensor, Tensor> generalised_pooling_backward_cpu(const Tensor& grad, const Tensor& vectors,
                                                            const Tensor& theta, const Tensor& counts) {
  const Sets sets(vectors, theta, counts);
  ITM_CHECK_VALUE(grad.dim() == 2 && grad.size(0) == sets.size && grad.size(1) == sets.dim, "grad must have shape (",
                  sets.size, ", ", sets.dim, "), got ", shape_of(grad));
  const Tensor cotangent = as_contiguous(as_type(grad, vectors.scalar_type()));
  Tensor of_vectors = zeros(vectors.sizes(), vectors.scalar_type()),
         of_theta = zeros(theta.sizes(), theta.scalar_type());
  if (vectors.scalar_type() == ScalarType::Double)
    backward<double>(sets, cotangent.const_data_ptr<double>(), of_vectors.mutable_data_ptr<double>(),
                     of_theta.mutable_data_ptr<double>());
  else
    backward<float>(sets, cotangent.const_data_ptr<float>(), of_vectors.mutable_data_ptr<float>(),
                    of_theta.mutable_data_ptr<float>());
  return {of_vectors, of_theta};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def("generalised_pooling(Tensor vectors, Tensor theta, Tensor counts) -> Tensor");
  m.def("generalised_pooling_backward(Tensor grad, Tensor vectors, Tensor theta, Tensor counts) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("generalised_pooling", TORCH_BOX(&generalised_pooling_cpu));
  m.impl("generalised_pooling_backward", TORCH_BOX(&generalised_pooling_backward_cpu));
}

}  // namespace itm

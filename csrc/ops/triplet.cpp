// torch.ops.itm_fast.triplet_loss: schema and CPU kernel. Contract: itm_fast/ops/triplet.py.
#include "hinge.h"

namespace itm {
namespace {

template <class T>
double hardest(const T* sims, const Negatives& negatives, T margin, T* grad) {
  const int64_t n = negatives.size();
  std::vector<int64_t> caption(n), image(n);
  extreme_negatives<true>(sims, negatives, caption.data(), image.data());
  double loss = 0;
  auto add = [&](int64_t row, int64_t column, int64_t own) {
    const T cost = margin + sims[row * n + column] - sims[own * n + own];
    if (cost <= 0) return;
    loss += cost;
    grad[row * n + column] += 1;
    grad[own * n + own] -= 1;
  };
  for (int64_t i = 0; i < n; i++) {
    if (caption[i] < 0) continue;  // then column i has no negative either
    add(i, caption[i], i);
    add(image[i], i, i);
  }
  return loss;
}

std::tuple<Tensor, Tensor> triplet_loss_cpu(const Tensor& sims, const std::optional<Tensor>& image_ids, double margin,
                                            bool max_violation, bool mean) {
  const Tensor scores = checked_sims(sims);
  const Negatives negatives(scores.size(0), image_ids);
  Tensor grad = zeros(scores.sizes(), scores.scalar_type());
  auto run = [&](auto number) {
    using T = decltype(number);
    const T* s = scores.const_data_ptr<T>();
    T* g = grad.mutable_data_ptr<T>();
    if (max_violation) return hardest<T>(s, negatives, T(margin), g);
    const std::pair<T, T> both(margin, margin);
    return hinge_over_all<T>(s, negatives, [both](int64_t) { return [both](int64_t) { return both; }; }, g);
  };
  const double loss = scores.scalar_type() == ScalarType::Double ? run(double()) : run(float());
  return reduced(loss, grad, mean, sims);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "triplet_loss(Tensor sims, Tensor? image_ids, float margin, bool max_violation, bool mean) -> (Tensor loss, "
      "Tensor grad_sims)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) { m.impl("triplet_loss", TORCH_BOX(&triplet_loss_cpu)); }

}  // namespace itm

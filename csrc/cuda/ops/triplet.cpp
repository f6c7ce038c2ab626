// torch.ops.itm_fast.triplet_loss on CUDA. Contract: itm_fast/ops/triplet.py.
#include "../hinge.h"
#include "host.h"

namespace itm::cuda {
namespace {

std::tuple<Tensor, Tensor> triplet_loss(const Tensor& sims, const std::optional<Tensor>& image_ids, double margin,
                                        bool max_violation, bool mean) {
  STD_TORCH_CHECK(sims.dim() == 2 && sims.size(0) == sims.size(1),
                  "sims must be a square matrix (n, n) with the pairs on its diagonal, got ", shape_of(sims));
  const int64_t n = sims.size(0);
  STD_TORCH_CHECK(n <= 46340, "sims must have at most 46340 rows, got ", n);
  const ScalarType type = sims.scalar_type();
  const ScalarType wide = type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor loss = zeros(sims, {}, wide), grad = empty(sims, {n, n}, type);
  if (n == 0) return {loss, grad};
  Launch launch("triplet_loss", sims);
  const Tensor scores = torch::stable::contiguous(sims);
  std::optional<Tensor> ids;
  if (image_ids.has_value()) ids = torch::stable::contiguous(*image_ids);
  const Tensor costs = empty(sims, {2, n}, ScalarType::Double), found = empty(sims, {2, n}, ScalarType::Int);
  const Tensor finished = zeros(sims, {1}, ScalarType::Int);
  const TripletArgs args{launch.in<void>(scores),          launch.in<int64_t>(ids),
                         launch.out<void>(grad),           launch.out<void>(loss),
                         launch.out<double>(costs),        launch.out<int32_t>(found),
                         launch.inout<uint32_t>(finished), margin,
                         mean ? 1.0 / double(n) : 1.0,     int32_t(n)};
  (max_violation ? triplet_hardest : triplet_all)(args, number_of(sims), launch.stream());
  launch.check();
  return {loss, grad};
}

}  // namespace

ITM_CUDA_OPERATORS(m) { m.impl("triplet_loss", TORCH_BOX(&triplet_loss)); }

}  // namespace itm::cuda

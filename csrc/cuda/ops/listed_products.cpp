// torch.ops.itm_fast.listed_products and listed_sums_: what operators of given pairs multiply on CUDA. Contract:
// itm_fast/ops/batched/listed.py.
#include "../listed_products.h"

#include <limits>

#include "groups.h"

namespace itm::cuda {
namespace {

void check_numbers(const char* name, const std::optional<Tensor>& numbers, int64_t n) {
  STD_TORCH_CHECK(
      !numbers.has_value() || (numbers->scalar_type() == ScalarType::Long && numbers->numel() == n && n >= 0), name,
      " must be ", n, " int64, got shape ", numbers.has_value() ? shape_of(*numbers) : "");
}

ListedSide side_of(Launch& launch, const Tensor& matrices, const std::optional<Tensor>& numbers) {
  const bool aligned = reinterpret_cast<uintptr_t>(matrices.const_data_ptr()) % 16 == 0;
  STD_TORCH_CHECK(aligned, "matrices must begin at a multiple of 16 bytes");
  return {launch.in<void>(matrices), launch.in<int64_t>(numbers), matrices.size(0), int32_t(matrices.size(1))};
}

// What the kernel reads beyond its end, or at a place that is not aligned, would be other memory.
ListedArgs operands(Launch& launch, const Tensor& left, const Tensor& right, const std::optional<Tensor>& left_numbers,
                    const std::optional<Tensor>& right_numbers) {
  STD_TORCH_CHECK(left.dim() == 3 && right.dim() == 3 && left.size(2) == right.size(2) &&
                      left.scalar_type() == right.scalar_type() && left.scalar_type() != ScalarType::Double,
                  "matrices must have shapes (n, rows, dim) of one dim and one type but float64, got ", shape_of(left),
                  " and ", shape_of(right));
  const int64_t dim = left.size(2);
  STD_TORCH_CHECK(dim > 0 && dim * size_in_bytes(left.scalar_type()) % 16 == 0 && dim < (int64_t(1) << 24),
                  "rows must be a multiple of 16 bytes, got ", dim, " numbers");
  STD_TORCH_CHECK(launch.has_tile_kernels(), "compute capability 8.0 or newer is needed");
  ListedArgs args{};
  args.left = side_of(launch, left, left_numbers);
  args.right = side_of(launch, right, right_numbers);
  args.dim = int32_t(dim);
  return args;
}

void multiply(Launch& launch, const ListedArgs& args, ScalarType type) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(int64_t(args.length) * args.right.rows <= kMost && listed_blocks(args) <= kMost,
                  "too many pairs for one call");
  multiply_lists(args, product_of(type), launch.stream());
  launch.check();
}

Tensor listed_products(const Tensor& owners, const Tensor& members, const Tensor& owner_numbers,
                       const Tensor& member_numbers) {
  Launch launch("listed_products", owners);
  STD_TORCH_CHECK(member_numbers.dim() == 2, "member_numbers must have shape (n_lists, length), got ",
                  shape_of(member_numbers));
  const int64_t n_lists = member_numbers.size(0), length = member_numbers.size(1);
  check_numbers("owner_numbers", owner_numbers, n_lists);
  check_numbers("member_numbers", member_numbers, n_lists * length);
  ListedArgs args = operands(launch, owners, members, owner_numbers, member_numbers);
  const Tensor out = empty(owners, {n_lists, owners.size(1), length, members.size(1)}, ScalarType::Float);
  if (out.numel() == 0) return out;
  args.out = launch.out<float>(out);
  args.n_lists = int32_t(n_lists);
  args.length = int32_t(length);
  multiply(launch, args, owners.scalar_type());
  return out;
}

void listed_sums(Tensor sums, const Tensor& left, const Tensor& right, const std::optional<Tensor>& left_numbers,
                 const Tensor& right_numbers, const Tensor& bounds, const std::optional<Tensor>& scale) {
  Launch launch("listed_sums_", left);
  const int64_t n_steps = right_numbers.numel();
  check_numbers("left_numbers", left_numbers, n_steps);
  check_numbers("right_numbers", right_numbers, n_steps);
  STD_TORCH_CHECK(left_numbers.has_value() || left.size(0) == n_steps, "there are ", n_steps, " steps, and ",
                  left.size(0), " matrices on the left");
  ListedArgs args = operands(launch, left, right, left_numbers, right_numbers);
  check_numbers("bounds", bounds, sums.size(0) + 1);
  STD_TORCH_CHECK(sums.dim() == 3 && sums.size(1) == left.size(1) && sums.size(2) == right.size(1) &&
                      sums.scalar_type() == ScalarType::Float,
                  "sums must be float32 of the matrices' rows, got ", shape_of(sums));
  STD_TORCH_CHECK(n_steps * round_up(args.dim, 8) < (int64_t(1) << 31), "too many pairs for one call");
  STD_TORCH_CHECK(!scale.has_value() || (scale->scalar_type() == ScalarType::Float && scale->numel() == 1),
                  "scale must be one float32");
  if (sums.numel() == 0 || n_steps == 0) return;
  args.bounds = launch.in<int64_t>(bounds);
  args.scale = launch.in<float>(scale);
  args.out = launch.inout<float>(sums);
  args.n_lists = int32_t(sums.size(0));
  args.length = 1;
  multiply(launch, args, left.scalar_type());
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("listed_products", TORCH_BOX(&listed_products));
  m.impl("listed_sums_", TORCH_BOX(&listed_sums));
}

}  // namespace itm::cuda

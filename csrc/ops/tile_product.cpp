// torch.ops.itm_fast.tile_product: one tile rows . columns^T as the engine computes it; for the tests and
// bench/gemm.py.
#include "../cpu/batch.h"
#include "../cpu/engine.h"
#include "operands.h"

namespace itm {
namespace {

template <class In, class Op, class T>
void multiply(const Batch& rows, const Batch& columns, int64_t repeats, T* out) {
  const int64_t m = rows.count(0), n = columns.count(0), k = round_up(rows.dim, std::is_same_v<Op, BFloat16> ? 2 : 1);
  const Gemm<Op, T> gemm;
  const Buffer<Op> left(m * k), right(n * k);
  pack_rows<Op, In>(rows, {0, 1, m, m, 0}, k, left.data());
  pack_panels<Op, In, T>(columns, {0, 1, n, n, 0}, k, right.data(), static_cast<T*>(nullptr), gemm.panel());
  const int64_t workers = repeats > 1 ? torch::stable::get_num_threads() : 1;
  parallel_workers(workers, double(workers) * worker_work(), [&](auto next) {
    const Buffer<T> tile(m * n);
    LeftOperand<Op, T> prepared(gemm, m, k);
    prepared.take(left.data(), m);
    for (int64_t worker = next(); worker >= 0; worker = next()) {
      for (int64_t i = 0; i < repeats; i++) prepared.multiply(right.data(), {0, 1, n, n, 0}, tile.data(), n);
      if (worker == 0) std::copy_n(tile.data(), m * n, out);
    }
    gemm.release();
  });
}

Tensor tile_product_cpu(const Tensor& rows, const Tensor& columns, int64_t repeats) {
  ITM_CHECK_VALUE(rows.dim() == 2 && columns.dim() == 2 && rows.size(1) == columns.size(1) && rows.numel() > 0 &&
                      columns.numel() > 0 && repeats > 0,
                  "expected rows (m, dim) and columns (n, dim), none of them empty, got ", shape_of(rows), " and ",
                  shape_of(columns));
  const ScalarType type = rows.scalar_type();
  ITM_CHECK_TYPE(type == columns.scalar_type(), "rows are ", type, ", columns ", columns.scalar_type());
  Tensor out = empty({rows.size(0), columns.size(0)}, score_type(type));
  const Batch left(torch::stable::unsqueeze(rows, 0), std::nullopt, "row");
  const Batch right(torch::stable::unsqueeze(columns, 0), std::nullopt, "column");
  if (type == ScalarType::Double)
    multiply<double, double>(left, right, repeats, out.mutable_data_ptr<double>());
  else if (type == ScalarType::Float)
    multiply<float, float>(left, right, repeats, out.mutable_data_ptr<float>());
  else if (gemm_choice(ScalarType::BFloat16).multiplier == Multiplier::kWidened)
    multiply<BFloat16, float>(left, right, repeats, out.mutable_data_ptr<float>());
  else
    multiply<BFloat16, BFloat16>(left, right, repeats, out.mutable_data_ptr<float>());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def("tile_product(Tensor rows, Tensor columns, int repeats=1) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) { m.impl("tile_product", TORCH_BOX(&tile_product_cpu)); }

}  // namespace itm

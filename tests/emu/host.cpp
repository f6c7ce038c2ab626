// The host side's Launch for emulated kernels: CPU tensors are device memory for as long as an operator runs.
#include "../../csrc/cuda/ops/host.h"

#include <cstring>

extern "C" {
void emu_adopt(const void* begin, size_t bytes, int written);
void emu_forget(const void* begin, size_t bytes);
int emu_has_tile_kernels();
void emu_release();
const char* emu_take_error();
}

namespace itm::cuda {

Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  Tensor tensor = torch::stable::new_empty(like, {shape.data(), shape.size()}, type);
  const size_t bytes = size_t(tensor.numel()) * tensor.element_size();
  std::memset(tensor.data_ptr(), 0xff, bytes);
  emu_forget(tensor.data_ptr(), bytes);
  return tensor;
}

Launch::Launch(const char* op, const Tensor& on) : op_(op), on_(on) {}
Launch::~Launch() { emu_release(); }

int Launch::shared_limit() const { return 99 * 1024; }  // the least of the architectures
bool Launch::has_tile_kernels() const { return emu_has_tile_kernels() != 0; }
bool Launch::has_fast_tensor_cores() const { return has_tile_kernels(); }
int Launch::multiprocessors() const { return 2; }

void Launch::check() const {
  const std::string error = emu_take_error();
  STD_TORCH_CHECK(error.empty(), op_, " on a tensor of shape ", shape_of(on_), ": the emulator says ", error);
}

void Launch::note(const Tensor& tensor, bool written) {
  STD_TORCH_CHECK(tensor.is_contiguous(), op_, " takes the memory of a tensor that is not contiguous");
  emu_adopt(tensor.data_ptr(), size_t(tensor.numel()) * tensor.element_size(), written);
}

void Launch::note_strided(const Tensor& tensor) {
  size_t numbers = tensor.numel() > 0;
  for (int64_t d = 0; d < tensor.dim() && numbers > 0; d++) numbers += size_t((tensor.size(d) - 1) * tensor.stride(d));
  emu_adopt(tensor.data_ptr(), numbers * tensor.element_size(), true);
}

}  // namespace itm::cuda

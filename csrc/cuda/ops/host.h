// What the host side of every CUDA operator shares. It compiles against a CPU-only torch. tests/emu/host.cpp implements
// the same class for emulated kernels.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "../../ops/tensor.h"
#include "../number.h"

// Operators registered here run on CUDA tensors; tests/emu/registered.h registers them otherwise.
#ifndef ITM_CUDA_OPERATORS
#define ITM_CUDA_OPERATORS(m) STABLE_TORCH_LIBRARY_IMPL(itm_fast, CUDA, m)
#endif

#ifndef ITM_SCRATCH_BYTES
#define ITM_SCRATCH_BYTES (int64_t(128) << 20)
#endif

namespace itm::cuda {

// Of intermediate results at a time; the emulated build has less of it, so that small tests need several rounds too.
constexpr int64_t kScratchBytes = ITM_SCRATCH_BYTES;

// Lives while an operator runs: its device is the current one, its kernels go to that device's current stream.
class Launch {
 public:
  Launch(const char* op, const Tensor& on);
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  void* stream() const { return stream_; }
  // Shared memory that a block may ask for, in bytes.
  int shared_limit() const;
  // Whether it has what the kernels of tiles.cu use: tensor cores of bfloat16 and TF32, asynchronous copies.
  bool has_tile_kernels() const;
  // Whether float32 by three products of TF32 outruns its FMAs: on 8.0, 9.0 and 10.0, not on 8.6, 8.9 and 12.0.
  bool has_fast_tensor_cores() const;
  // Multiprocessors of the device: how many blocks make it busy.
  int multiprocessors() const;
  // After the last launch: raises what went wrong, with the operator's name and the shape it was given.
  void check() const;

  // Data of contiguous tensors: of an input; of a result that nobody has written; of both.
  template <class T>
  const T* in(const Tensor& tensor) {
    note(tensor, true);
    return static_cast<const T*>(tensor.const_data_ptr());
  }
  template <class T>
  T* out(const Tensor& tensor) {
    note(tensor, false);
    return static_cast<T*>(tensor.mutable_data_ptr());
  }
  template <class T>
  T* inout(const Tensor& tensor) {
    note(tensor, true);
    return static_cast<T*>(tensor.mutable_data_ptr());
  }
  // An input of any strides.
  template <class T>
  const T* strided(const Tensor& tensor) {
    note_strided(tensor);
    return static_cast<const T*>(tensor.const_data_ptr());
  }
  // An argument that may be missing: null then.
  template <class T>
  const T* in(const std::optional<Tensor>& tensor) {
    return tensor.has_value() ? in<T>(*tensor) : nullptr;
  }

 private:
  // Checks memory that the kernels may touch; the emulator also hears of it here.
  void note(const Tensor& tensor, bool written);
  void note_strided(const Tensor& tensor);

  const char* op_;
  Tensor on_;
  std::shared_ptr<void> device_;
  void* stream_ = nullptr;
};

// float32, float64, bfloat16 or float16; the operators' Python front refuses the rest with better words.
inline Number number_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return Number::kFloat;
    case ScalarType::Double:
      return Number::kDouble;
    case ScalarType::BFloat16:
      return Number::kBf16;
    case ScalarType::Half:
      return Number::kF16;
    default:
      STD_TORCH_CHECK(false, "tensors must be float32, float64, bfloat16 or float16");
  }
}
inline Number number_of(const Tensor& tensor) { return number_of(tensor.scalar_type()); }

// On the device of `like`. What `empty` holds is anything: the tests' is full of NaN and -1.
Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type);
inline Tensor zeros(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  return torch::stable::new_zeros(like, {shape.data(), shape.size()}, type);
}

}  // namespace itm::cuda

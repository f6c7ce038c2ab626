// Tensors as all operators know them, on the CPU and on CUDA: torch's stable ABI and nothing else of torch, so that one
// binary serves every torch from 2.11 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace itm {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

// As Python writes it.
inline std::string as_text(Shape shape) {
  std::string text = "[";
  for (size_t d = 0; d < shape.size(); d++) text += (d > 0 ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}
inline std::string shape_of(const Tensor& tensor) { return as_text(tensor.sizes()); }
inline bool has_shape(const Tensor& tensor, Shape shape) {
  const Shape sizes = tensor.sizes();
  return std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end());
}

template <class... Parts>
std::string message_of(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  return message.str();
}

// Python gets TypeError. Standard exceptions, which become ValueError and IndexError, have none for it, and this
// library no other way to raise one than pybind11's: see host/bindings.cpp.
[[noreturn]] void throw_type_error(const std::string& message);

#define ITM_CHECK_VALUE(condition, ...) \
  if (!(condition)) [[unlikely]]        \
  throw std::invalid_argument(::itm::message_of(__VA_ARGS__))
#define ITM_CHECK_INDEX(condition, ...) \
  if (!(condition)) [[unlikely]]        \
  throw std::out_of_range(::itm::message_of(__VA_ARGS__))
#define ITM_CHECK_TYPE(condition, ...) \
  if (!(condition)) [[unlikely]]       \
  ::itm::throw_type_error(::itm::message_of(__VA_ARGS__))

// On the CPU, with any numbers in it; past torch's dispatcher, which would take a microsecond.
inline Tensor empty(Shape shape, ScalarType type) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0; stride *= std::max<int64_t>(shape[d], 1)) strides[d] = stride;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.data(), strides.data(),
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

inline Tensor scalar(double value, ScalarType type) {
  const Tensor tensor = empty({}, type);
  if (type == ScalarType::Double)
    *tensor.mutable_data_ptr<double>() = value;
  else if (type == ScalarType::Float)
    *tensor.mutable_data_ptr<float>() = float(value);
  else
    torch::stable::fill_(tensor, value);
  return tensor;
}

// The tensor itself where it is so already.
inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// A view of a matrix, past the dispatcher too.
inline Tensor transposed(const Tensor& matrix) {
  const int64_t sizes[] = {matrix.size(1), matrix.size(0)}, strides[] = {matrix.stride(1), matrix.stride(0)};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(matrix.get(), 2, sizes, strides, 0, &handle));
  return Tensor(handle);
}

}  // namespace itm

// Launches on a device: torch's current device and stream, CUDA's errors.
#include "host.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

namespace itm::cuda {
namespace {

// torch 2.13 tells any stream's handle; before it libtorch_cuda has a function of its own. Both are looked up at run
// time: what this is compiled against may have neither.
void* current_stream(int32_t device) {
  using NativeHandle = AOTITorchError (*)(StreamHandle, void**);
  using CurrentCudaStream = AOTITorchError (*)(int32_t, void**);
  static const auto native_handle = reinterpret_cast<NativeHandle>(dlsym(RTLD_DEFAULT, "torch_stream_native_handle"));
  void* stream = nullptr;
  if (native_handle != nullptr) {
    StreamHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_stream(device, &handle));
    const std::shared_ptr<StreamOpaque> owned(handle, [](StreamHandle of) { aoti_torch_delete_stream(of); });
    TORCH_ERROR_CODE_CHECK(native_handle(handle, &stream));
    return stream;
  }
  static const auto current_cuda_stream = []() {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* function = library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
    return reinterpret_cast<CurrentCudaStream>(function);
  }();
  STD_TORCH_CHECK(current_cuda_stream != nullptr, "this torch does not tell its current CUDA stream");
  TORCH_ERROR_CODE_CHECK(current_cuda_stream(device, &stream));
  return stream;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, which, device);
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error));
  return value;
}

}  // namespace

Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  return torch::stable::new_empty(like, {shape.data(), shape.size()}, type);
}

Launch::Launch(const char* op, const Tensor& on)
    : op_(op),
      on_(on),
      device_(std::make_shared<torch::stable::accelerator::DeviceGuard>(on.get_device_index())),
      stream_(current_stream(on.get_device_index())) {}
Launch::~Launch() = default;

int Launch::shared_limit() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, on_.get_device_index()); }
bool Launch::has_tile_kernels() const {
  return attribute(cudaDevAttrComputeCapabilityMajor, on_.get_device_index()) >= 8;
}
bool Launch::has_fast_tensor_cores() const {
  return has_tile_kernels() && shared_limit() > 100 * 1024;  // the others have 99 KB
}
int Launch::multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount, on_.get_device_index()); }

void Launch::check() const {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, op_, " on a tensor of shape ", shape_of(on_), ": CUDA says ",
                  cudaGetErrorString(error));
}

// A kernel that was given another device's memory would end the process, or worse.
void Launch::note_strided(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == on_.get_device_index(), op_,
                  ": all tensors must be on the same CUDA device");
}
void Launch::note(const Tensor& tensor, bool) {
  note_strided(tensor);
  STD_TORCH_CHECK(tensor.is_contiguous(), op_, ": a tensor isn't contiguous");
}

}  // namespace itm::cuda

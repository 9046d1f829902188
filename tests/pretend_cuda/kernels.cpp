// A pretend CUDA device behind torch's own dispatch key: every operator runs the CPU's kernel on the device's memory.
//
// Tensors on different devices raise, as on a GPU. What makes the host wait, and what is copied between the host and
// the device, is told to Python. Nothing here says anything about the numerics, types or speed of CUDA's kernels.
#include "call.hpp"

C10_REGISTER_GUARD_IMPL(CUDA, pretend::Guard)
namespace at {
using PretendHooks = pretend::Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, PretendHooks)
}  // namespace at

namespace pretend {

using at::IntArrayRef;
using Type = std::optional<at::ScalarType>;
using Layout = std::optional<at::Layout>;
using Place = std::optional<at::Device>;
using Flag = std::optional<bool>;
using MaybeTensor = std::optional<Tensor>;

static const bool allocator_is_set = [] {
  c10::SetAllocator(CUDA, &memory);
  return true;
}();

// ---------------------------------------------------------------- kernels of its own

class Selected {  // another device, while it lives
 public:
  explicit Selected(const Place& place) : before_(current) {
    if (place) select(place->index());
  }
  ~Selected() { current = before_; }

 private:
  c10::DeviceIndex before_;
};

static Tensor empty(IntArrayRef size, Type type, Layout, Place place, Flag, std::optional<at::MemoryFormat> format) {
  kernels++;
  Selected device(place);
  const DispatchKeySet key(DispatchKey::CUDA);
  return at::detail::empty_generic(size, &memory, key, c10::dtype_or_default(type), format);
}

static Tensor empty_strided(IntArrayRef size, IntArrayRef stride, Type type, Layout, Place place, Flag) {
  kernels++;
  Selected device(place);
  const DispatchKeySet key(DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, stride, &memory, key, c10::dtype_or_default(type));
}

// A copy that may go on by itself needs pinned memory; the host waits for any other.
static Tensor& copy(Tensor& self, const Tensor& from, bool non_blocking) {
  kernels++;
  if (on_device(self) != on_device(from)) {
    const auto& host = on_device(self) ? from : self;
    const std::string way = on_device(self) ? "to the device" : "to the host";
    tell("copy", way);
    if (!non_blocking || !Pinned::holds(host.storage().data())) tell("wait", "copy " + way);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
  auto to = on_device(self) ? as_cpu(self) : self;
  to.copy_(on_device(from) ? as_cpu(from) : from);
  return self;
}

static at::Scalar item(const Tensor& tensor) {
  kernels++;
  tell("copy", "item");
  tell("wait", "item");
  return as_cpu(tensor).item();
}

static Tensor& set_storage(Tensor& self, at::Storage storage, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  TORCH_CHECK(storage.device().type() == CUDA, "set_: storage on ", storage.device(), " for a tensor on cuda");
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(storage);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

// ---------------------------------------------------------------- batch norm, whose CPU kernels refuse mixed types

static bool is_low(const Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
}

static Tensor widened(const Tensor& tensor, at::ScalarType type) {
  TORCH_CHECK(!tensor.defined() || on_device(tensor), "batch_norm: a tensor is on the CPU");
  return tensor.defined() ? as_cpu(tensor.to(type)) : tensor;
}

static MaybeTensor widened(const MaybeTensor& tensor, at::ScalarType type) {
  return tensor && tensor->defined() ? MaybeTensor(widened(*tensor, type)) : std::nullopt;
}

static MaybeTensor seen(const MaybeTensor& tensor) {  // in place: running statistics are written
  TORCH_CHECK(!tensor || !tensor->defined() || on_device(*tensor), "batch_norm: a statistic is on the CPU");
  return tensor && tensor->defined() ? MaybeTensor(as_cpu(*tensor)) : std::nullopt;
}

static std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const MaybeTensor& weight,
                                                     const MaybeTensor& bias, const MaybeTensor& mean,
                                                     const MaybeTensor& variance, bool train, double momentum,
                                                     double epsilon) {
  kernels++;
  const auto type = is_low(x) ? at::kFloat : x.scalar_type();
  const auto wide = widened(x, type);
  const auto scale = widened(weight, type), shift = widened(bias, type);
  std::tuple<Tensor, Tensor, Tensor> found;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    found = at::native_batch_norm(wide, scale, shift, seen(mean), seen(variance), train, momentum, epsilon);
  }
  return {as_device(std::get<0>(found)).to(x.scalar_type()), as_device(std::get<1>(found)),
          as_device(std::get<2>(found))};
}

static std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(
    const Tensor& gradient, const Tensor& x, const MaybeTensor& weight, const MaybeTensor& mean,
    const MaybeTensor& variance, const MaybeTensor& saved_mean, const MaybeTensor& saved_deviation, bool train,
    double epsilon, std::array<bool, 3> wanted) {
  kernels++;
  const auto type = is_low(x) ? at::kFloat : x.scalar_type();
  const auto upstream = widened(gradient, type), wide = widened(x, type);
  const auto scale = widened(weight, type);
  std::tuple<Tensor, Tensor, Tensor> found;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    found = at::native_batch_norm_backward(upstream, wide, scale, seen(mean), seen(variance), seen(saved_mean),
                                           seen(saved_deviation), train, epsilon, wanted);
  }
  const auto of_input = as_device(std::get<0>(found));
  return {of_input.defined() ? of_input.to(x.scalar_type()) : of_input, as_device(std::get<1>(found)),
          as_device(std::get<2>(found))};
}

// ---------------------------------------------------------------- registration

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&any_operator>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("copy_", copy);
  library.impl("_local_scalar_dense", item);
  library.impl("set_.source_Storage_storage_offset", set_storage);
  library.impl("native_batch_norm", batch_norm);
  library.impl("native_batch_norm_backward", batch_norm_backward);
  for (const char* name : {"convolution", "convolution_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&any_operator>());
  }
}

// Operators on many tensors are single kernels on a GPU; torch's own fallback would take them apart.
static torch::Library many_tensors(torch::Library::IMPL, "aten", DispatchKey::CUDA, __FILE__, __LINE__);
static const bool many_tensors_are_set = [] {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& op : dispatcher.getAllOpNames()) {
    const auto starts = [&](const char* with) { return op.name.rfind(with, 0) == 0; };
    if (!starts("aten::_foreach_") && !starts("aten::_fused_adam") && !starts("aten::_fused_sgd")) continue;
    if (dispatcher.findOp(op)->hasKernelForDispatchKey(DispatchKey::CUDA)) continue;
    const auto name = op.name.substr(6) + (op.overload_name.empty() ? "" : "." + op.overload_name);
    many_tensors.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&any_operator>());
  }
  return true;
}();

}  // namespace pretend

PYBIND11_MODULE(_pretend_cuda, module) {
  using namespace pretend;
  module.def("listen", [](py::object told) {
    delete std::exchange(listener, told.is_none() ? nullptr : new py::object(told));
  });
  module.def("kernels", [] { return kernels.load(); });
  module.def("used", [] { return used.load(); });
  module.def("peak", [] { return peak.load(); });
  module.def("reset_peak", [] { peak = used.load(); });
  module.def("limit", [] { return limit.load(); });
  module.def("set_limit", [](int64_t bytes) { limit = bytes; });
  module.def("devices", [] { return devices(); });
  module.def("device", [] { return int(current); });
  module.def("set_device", [](int index) {
    const int before = current;
    select(index);
    return before;
  });
  module.def("default_generator", [](int index) { return default_generator(index); });
}

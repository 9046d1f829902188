// Any operator of the device, as a call of the CPU's kernel on the same memory; and what Python is told of it.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "device.hpp"

namespace pretend {

using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;

// ---------------------------------------------------------------- reports to Python

static py::object* listener = nullptr;
static std::atomic<int64_t> kernels{0};

static void tell(const char* kind, const std::string& what) {
  if (!listener) return;
  py::gil_scoped_acquire held;
  (*listener)(kind, what);
}

// ---------------------------------------------------------------- one memory, two devices

static bool on_device(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == CUDA; }

static Tensor on_storage(const c10::Storage& storage, DispatchKey key, const Tensor& like) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), DispatchKeySet(key), like.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) made.unsafeGetTensorImpl()->set_wrapped_number(true);
  return made;
}

static c10::Storage shared(const c10::Storage& owner, int64_t bytes, c10::Device device, c10::Allocator* allocator) {
  auto* block = new Block{bytes, nullptr, owner};
  c10::DataPtr data(const_cast<void*>(owner.data()), block, &free_block, device);
  return c10::Storage(c10::Storage::use_byte_size_t(), owner.nbytes(), std::move(data), allocator, true);
}

static Tensor as_cpu(const Tensor& tensor) {
  const auto& storage = tensor.storage();
  return on_storage(shared(storage, 0, c10::kCPU, c10::GetAllocator(c10::kCPU)), DispatchKey::CPU, tensor);
}

static c10::Storage as_device(const c10::Storage& storage) {
  const int64_t bytes = storage.nbytes();
  require_room(bytes);
  count(bytes);
  return shared(storage, bytes, c10::Device(CUDA, current), &memory);
}

static Tensor as_device(const Tensor& tensor) {
  return tensor.defined() ? on_storage(as_device(tensor.storage()), DispatchKey::CUDA, tensor) : tensor;
}

// ---------------------------------------------------------------- any operator

static const std::set<std::string> INDEXING{"aten::index",      "aten::index_put",     "aten::index_put_",
                                            "aten::_index_put_impl_", "aten::_unsafe_index", "aten::_unsafe_index_put"};
static const std::set<std::string> WAITING{"aten::nonzero",       "aten::masked_select",      "aten::_unique2",
                                           "aten::unique_dim",    "aten::unique_consecutive", "aten::equal",
                                           "aten::is_nonzero",    "aten::bincount",           "aten::repeat_interleave"};

// A call of an operator: its arguments as the CPU sees them, and its results as those of the device.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : name_(op.schema().name()), indexes_(INDEXING.count(name_) > 0) {}

  void take(IValue& value) {
    if (value.isTensor()) {
      value = taken(value.toTensor(), false);
    } else if (value.isTensorList()) {
      c10::List<Tensor> all;
      for (const auto& tensor : value.toTensorVector()) all.push_back(taken(tensor, false));
      value = IValue(all);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> all;
      for (std::optional<Tensor> t : value.toOptionalTensorList()) {
        all.push_back(t ? std::optional<Tensor>(taken(*t, indexes_)) : t);
      }
      value = IValue(all);
    } else if (value.isDevice() && value.toDevice().type() == CUDA) {
      value = IValue(c10::Device(c10::kCPU));
    } else if (value.isGenerator()) {
      value = taken(value.toGenerator());
    }
  }

  void check() const {
    TORCH_CHECK(foreign_.empty() || taken_.empty(),
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and ", foreign_,
                " (pretend device, ", name_, ")");
    TORCH_CHECK(foreign_.empty(), "pretend device: ", name_, " without a tensor of the device, but with ", foreign_);
    if (index_on_host_) {
      tell("copy", name_ + " by an index of the host");
      tell("wait", name_ + " by an index of the host");
    }
    if (WAITING.count(name_)) tell("wait", name_);
  }

  // Kernels change sizes and storage in place, as out= and resize_ do.
  void keep_changes() {
    for (auto& [mine, seen] : taken_) {
      if (seen.storage().data() != mine.storage().data()) {
        auto* storage = mine.storage().unsafeGetStorageImpl();
        auto grown = as_device(seen.storage());
        storage->set_data_ptr_noswap(std::move(grown.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks()));
        storage->set_nbytes(seen.storage().nbytes());
      }
      const bool same = seen.sizes() == mine.sizes() && seen.strides() == mine.strides();
      if (same && seen.storage_offset() == mine.storage_offset()) continue;
      mine.unsafeGetTensorImpl()->set_sizes_and_strides(seen.sizes(), seen.strides(), seen.storage_offset());
    }
    for (auto& [mine, seen] : generators_) mine.set_state(seen.get_state());
  }

  void give(IValue& value) {
    if (value.isTensor()) {
      value = given(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> all;
      for (const auto& tensor : value.toTensorVector()) all.push_back(given(tensor));
      value = IValue(all);
    }
  }

  bool has_generator() const { return !generators_.empty(); }

 private:
  Tensor taken(const Tensor& tensor, bool is_index) {
    if (!tensor.defined()) return tensor;
    if (!on_device(tensor)) {
      if (is_index) {
        index_on_host_ = true;
      } else if (tensor.dim() > 0 || !tensor.device().is_cpu()) {  // a kernel takes a number by value
        foreign_ = tensor.device().str() + " (" + std::to_string(tensor.dim()) + " dimensions)";
      }
      return tensor;
    }
    if (is_index && (tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte)) {
      tell("wait", name_ + " by a mask");
    }
    for (auto& [mine, seen] : taken_) {
      if (mine.is_same(tensor)) return seen;
    }
    taken_.emplace_back(tensor, as_cpu(tensor));
    return taken_.back().second;
  }

  IValue taken(at::Generator generator) {
    TORCH_CHECK(generator.device().type() == CUDA, "Expected a 'cuda' device type for generator but found '",
                generator.device(), "' in ", name_);
    auto seen = at::detail::createCPUGenerator();
    seen.set_state(generator.get_state());
    generators_.emplace_back(generator, seen);
    return IValue(seen);
  }

  Tensor given(const Tensor& tensor) {
    if (!tensor.defined() || !tensor.device().is_cpu()) return tensor;
    for (auto& [mine, seen] : taken_) {
      if (seen.is_same(tensor)) return mine;
      if (seen.storage().unsafeGetStorageImpl() != tensor.storage().unsafeGetStorageImpl()) continue;
      auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(mine.storage()),
                                                           mine.key_set(), tensor.dtype());
      view.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
      return view;
    }
    return as_device(tensor);
  }

  std::string name_;
  bool indexes_, index_on_host_ = false;
  std::string foreign_;
  std::vector<std::pair<Tensor, Tensor>> taken_;
  std::vector<std::pair<at::Generator, at::Generator>> generators_;
};

// Lets the default generator of the CPU draw what that of the device would, while it lives.
class DeviceDraws {
 public:
  DeviceDraws() : cpu_(at::detail::getDefaultCPUGenerator()), device_(default_generator(current)) {
    before_ = cpu_.get_state();
    cpu_.set_state(device_.get_state());
  }
  ~DeviceDraws() {
    device_.set_state(cpu_.get_state());
    cpu_.set_state(before_);
  }

 private:
  at::Generator cpu_, device_;
  Tensor before_;
};

static void any_operator(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  kernels++;
  const auto arguments = op.schema().arguments().size(), results = op.schema().returns().size();
  Call call(op);
  for (size_t i = stack->size() - arguments; i < stack->size(); i++) call.take((*stack)[i]);
  call.check();
  {
    at::AutoDispatchBelowADInplaceOrView below;
    c10::impl::ExcludeDispatchKeyGuard without_autocast(c10::autocast_dispatch_keyset);
    std::optional<DeviceDraws> draws;
    if (op.hasTag(at::Tag::nondeterministic_seeded) && !call.has_generator()) draws.emplace();
    op.callBoxed(stack);
  }
  call.keep_changes();
  for (size_t i = stack->size() - results; i < stack->size(); i++) call.give((*stack)[i]);
}

}  // namespace pretend

// What torch asks of a CUDA device: memory, random numbers, the current device. Memory is the host's.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

namespace pretend {

constexpr auto CUDA = c10::DeviceType::CUDA;
constexpr int64_t GIGABYTE = int64_t(1) << 30;

inline int devices() {
  static const int number = [] {
    const char* asked = std::getenv("PRETEND_CUDA_DEVICES");
    return asked ? std::atoi(asked) : 1;
  }();
  return number;
}

inline thread_local c10::DeviceIndex current = 0;

inline c10::DeviceIndex index_of(c10::DeviceIndex asked) { return asked < 0 ? current : asked; }

inline void select(c10::DeviceIndex asked) {
  TORCH_CHECK(asked < devices(), "CUDA error: invalid device ordinal");
  current = index_of(asked);
}

// ---------------------------------------------------------------- memory

inline std::atomic<int64_t> used{0}, peak{0}, limit{16 * GIGABYTE};

inline void require_room(int64_t bytes) {
  TORCH_CHECK_WITH(OutOfMemoryError, used + bytes <= limit, "CUDA out of memory. Tried to allocate ", bytes,
                   " bytes (pretend device).");
}

inline void count(int64_t bytes) {
  const int64_t now = used += bytes;
  int64_t highest = peak;
  while (now > highest && !peak.compare_exchange_weak(highest, now)) {}
}

// Memory of the device, or a view of memory whose owner it keeps alive.
struct Block {
  int64_t bytes;
  void* data;
  c10::Storage owner;
};

inline void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  used -= block->bytes;
  std::free(block->data);
  delete block;
}

struct Memory : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    require_room(bytes);
    void* data = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    if (data) std::memset(data, 0xff, bytes);  // NaN where nobody has written
    count(bytes);
    return {data, new Block{int64_t(bytes), data, {}}, &free_block, c10::Device(CUDA, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

inline Memory memory;

// Pinned memory of the host, which is known by its address.
struct Pinned : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* data = static_cast<char*>(std::malloc(bytes ? bytes : 1));
    std::lock_guard<std::mutex> lock(mutex());
    spans()[data] = data + bytes;
    return {data, data, &forget, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &forget; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  static bool holds(const void* data) {
    const auto* address = static_cast<const char*>(data);
    std::lock_guard<std::mutex> lock(mutex());
    auto after = spans().upper_bound(const_cast<char*>(address));
    return after != spans().begin() && address < std::prev(after)->second;
  }

 private:
  static void forget(void* data) {
    {
      std::lock_guard<std::mutex> lock(mutex());
      spans().erase(static_cast<char*>(data));
    }
    std::free(data);
  }
  static std::map<char*, char*>& spans() {
    static auto* all = new std::map<char*, char*>;  // never destroyed: tensors may outlive it at exit
    return *all;
  }
  static std::mutex& mutex() {
    static auto* one = new std::mutex;
    return *one;
  }
};

inline Pinned pinned;

// ---------------------------------------------------------------- random numbers

// Draws other numbers than the CPU's generator of the same seed, as a GPU does.
struct Generator : at::CPUGeneratorImpl {
  explicit Generator(c10::DeviceIndex index) : at::CPUGeneratorImpl(c10::default_rng_seed_val) {
    device_ = c10::Device(CUDA, index);
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  }
  void set_current_seed(uint64_t seed) override {
    asked = seed;
    at::CPUGeneratorImpl::set_current_seed(seed * 2654435761u + 12345);
  }
  uint64_t current_seed() const override { return asked; }

 private:
  uint64_t asked = c10::default_rng_seed_val;

  Generator* clone_impl() const override {
    auto* copy = new Generator(device_.index());
    copy->set_state(*get_state());
    copy->asked = asked;
    return copy;
  }
};

inline const at::Generator& default_generator(c10::DeviceIndex index) {
  static const std::vector<at::Generator> all = [] {
    std::vector<at::Generator> made;
    for (int place = 0; place < devices(); place++) made.push_back(at::make_generator<Generator>(place));
    return made;
  }();
  return all.at(index_of(index));
}

// ---------------------------------------------------------------- what torch asks

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = CUDA;
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return CUDA; }
  c10::Device getDevice() const override { return {CUDA, current}; }
  void setDevice(c10::Device device) const override { select(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current = index_of(device.index()); }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return devices(); }
  c10::Stream getStream(c10::Device device) const override {  // all work is done at once, on one stream
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(CUDA, index_of(device.index())));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(1);
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};

struct Hooks : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return devices(); }
  c10::DeviceIndex deviceCount() const override { return devices(); }
  c10::DeviceIndex current_device() const override { return current; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { select(index); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current, index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(current, index_of(index));
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override { return default_generator(index); }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(index_of(index));
  }
  at::Device getDeviceFromPtr(void*) const override { return {CUDA, current}; }
  bool isPinnedPtr(const void* data) const override { return Pinned::holds(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  at::Allocator* getCUDADeviceAllocator() const override { return &memory; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
};

}  // namespace pretend

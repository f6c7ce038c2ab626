// A hash map from unsigned integers to int32 for the n-gram tables: open addressing, nothing is ever erased.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace itm {

template <class Key>
class FlatMap {
 public:
  explicit FlatMap(size_t expected = 8) { rehash(expected * 2); }

  // The value of a key, or -1.
  int32_t find(Key key) const {
    for (size_t slot = hash(key);; slot = (slot + 1) & mask_) {
      if (keys_[slot] == key) return values_[slot];
      if (keys_[slot] == kEmpty) return -1;
    }
  }

  // The value of a key; a new key gets `value`. No key may be all ones.
  int32_t find_or_add(Key key, int32_t value) {
    if (size_ * 3 >= keys_.size() * 2) grow();
    for (size_t slot = hash(key);; slot = (slot + 1) & mask_) {
      if (keys_[slot] == key) return values_[slot];
      if (keys_[slot] != kEmpty) continue;
      keys_[slot] = key;
      values_[slot] = value;
      size_++;
      return value;
    }
  }

 private:
  static constexpr Key kEmpty = ~Key(0);

  size_t hash(Key key) const { return size_t(uint64_t(key) * 0x9E3779B97F4A7C15u >> shift_); }

  void rehash(size_t slots) {
    size_t size = 16;
    shift_ = 60;
    for (; size < slots; size *= 2) shift_--;
    mask_ = size - 1;
    keys_.assign(size, kEmpty);
    values_.resize(size);
  }

  void grow() {
    const std::vector<Key> keys = std::move(keys_);
    const std::vector<int32_t> values = std::move(values_);
    rehash(keys.size() * 2);
    size_ = 0;
    for (size_t i = 0; i < keys.size(); i++)
      if (keys[i] != kEmpty) find_or_add(keys[i], values[i]);
  }

  std::vector<Key> keys_;
  std::vector<int32_t> values_;
  size_t size_ = 0, mask_ = 0;
  int shift_ = 60;
};

}  // namespace itm

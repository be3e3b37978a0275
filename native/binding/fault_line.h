// A line that is written to stderr when a mapped file cannot be read any more; made before, since little may
// be called then.
#pragma once

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

namespace geminate {

// Like 2026-01-31T23:59:59.999Z.
struct Moment {
  int year, month, day, hour, minute, second, millisecond;
};

class FaultLine {
 public:
  static constexpr size_t kPart = 512, kStamp = 24, kSize = 2 * kPart + kStamp;

  // `tail` stands behind the time; empty: no time.
  void set(const std::string& head, const std::string& tail) {
    if (head.size() > kPart || tail.size() > kPart)
      throw std::invalid_argument("head and tail hold at most 512 bytes");
    head_size_ = head.copy(head_, kPart);
    tail_size_ = tail.copy(tail_, kPart);
  }
  bool timed() const { return tail_size_ > 0; }
  // Bytes written to `line`, which has room for kSize. Allocates nothing.
  size_t write(char* line, const Moment& now) const {
    std::memcpy(line, head_, head_size_);
    if (!timed()) return head_size_;
    char* at = line + head_size_;
    std::memcpy(at, "0000-00-00T00:00:00.000Z", kStamp);
    digits(at, now.year, 4);
    digits(at + 5, now.month, 2);
    digits(at + 8, now.day, 2);
    digits(at + 11, now.hour, 2);
    digits(at + 14, now.minute, 2);
    digits(at + 17, now.second, 2);
    digits(at + 20, now.millisecond, 3);
    std::memcpy(at + kStamp, tail_, tail_size_);
    return head_size_ + kStamp + tail_size_;
  }

 private:
  static void digits(char* at, int value, int count) {
    for (int i = count - 1; i >= 0; --i, value /= 10) at[i] = static_cast<char>('0' + value % 10);
  }

  char head_[kPart] = {}, tail_[kPart] = {};
  size_t head_size_ = 0, tail_size_ = 0;
};

}  // namespace geminate

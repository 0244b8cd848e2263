#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#include <bit>

#include "platform.h"

namespace tritium {

bool survives(const std::function<void()>& work) {
  __try {
    work();
  } __except (GetExceptionCode() == EXCEPTION_ILLEGAL_INSTRUCTION ? EXCEPTION_EXECUTE_HANDLER : EXCEPTION_CONTINUE_SEARCH) {
    return false;
  }
  return true;
}

// The system calls handlers of the console on a thread of their own.
void without_signals(const std::function<void()>& start) { start(); }

int64_t process_id() { return static_cast<int64_t>(GetCurrentProcessId()); }

// The masks of a process cover one group of up to 64 CPUs; one that nobody restricted runs on all groups.
int available_cpus() {
  DWORD_PTR allowed = 0, all = 0;
  if (GetProcessAffinityMask(GetCurrentProcess(), &allowed, &all) && allowed != all) return std::popcount(uint64_t{allowed});
  const DWORD n = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
  return n > 0 ? static_cast<int>(n) : 1;
}

uint64_t system::page_bytes() {
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info.dwPageSize;
}

// Large pages take a privilege that users do not have.
uint8_t* system::take_pages(uint64_t nbytes, bool) {
  return static_cast<uint8_t*>(VirtualAlloc(nullptr, nbytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE));
}

void system::give_pages_back(uint8_t* pages, uint64_t) { VirtualFree(pages, 0, MEM_RELEASE); }

}  // namespace tritium

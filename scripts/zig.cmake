# A toolchain for other systems out of the Python package ziglang, which brings clang with their headers and libraries:
# cmake -DCMAKE_TOOLCHAIN_FILE=scripts/zig.cmake -DZIG_TARGET=x86_64-windows-gnu -DZIG_PYTHON=python3 …
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG_TARGET ZIG_PYTHON)
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR "${ZIG_TARGET}")
if(ZIG_TARGET MATCHES "windows")
  set(CMAKE_SYSTEM_NAME Windows)
else()
  set(CMAKE_SYSTEM_NAME Darwin)
endif()
set(CMAKE_CXX_COMPILER "${ZIG_PYTHON}" "${CMAKE_CURRENT_LIST_DIR}/zig_cxx.py" -target ${ZIG_TARGET})
set(CMAKE_CXX_ARCHIVE_CREATE "${ZIG_PYTHON} -m ziglang ar qc <TARGET> <LINK_FLAGS> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "${ZIG_PYTHON} -m ziglang ranlib <TARGET>")
set(CMAKE_CXX_FLAGS_INIT -O2) # of checks, too: the libraries are compiled for each level of optimization

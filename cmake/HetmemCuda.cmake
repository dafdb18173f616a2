# HETMEM_CUDA (AUTO, ON, OFF) -> HETMEM_HAS_CUDA, and what a CUDA build takes: nvcc and the runtime of
# a toolkit, and cuBLAS of the toolkit or of the Python package nvidia-cublas in the active environment
# or in .venv. The runtime is linked in; cuBLAS is loaded at its first use, so that the binary starts
# where neither is. HETMEM_CUBLAS_INCLUDE: its headers; HETMEM_CUBLAS_FOLDER: its libraries.
set(HETMEM_CUDA AUTO CACHE STRING "Train on GPUs: AUTO (where nvcc and cuBLAS are found), ON or OFF")
set_property(CACHE HETMEM_CUDA PROPERTY STRINGS AUTO ON OFF)
set(HETMEM_HAS_CUDA OFF)
if(NOT HETMEM_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "HETMEM_CUDA is \"${HETMEM_CUDA}\"; it must be AUTO, ON or OFF")
endif()
if(HETMEM_CUDA STREQUAL "OFF")
  return()
endif()

set(missing "")
find_program(HETMEM_NVCC nvcc HINTS ENV CUDAToolkit_ROOT ENV CUDA_PATH
  PATHS /usr/local/cuda PATH_SUFFIXES bin)
if(NOT HETMEM_NVCC)
  string(APPEND missing " nvcc (a CUDA toolkit, in the PATH or at /usr/local/cuda)")
endif()
file(GLOB python_folders $ENV{VIRTUAL_ENV}/lib/python3*/site-packages/nvidia/cu13
  ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu13)
get_filename_component(toolkit "${HETMEM_NVCC}" REALPATH)
get_filename_component(toolkit "${toolkit}" DIRECTORY)
set(cublas_places ${toolkit}/../targets/x86_64-linux ${toolkit}/.. ${python_folders})
find_path(HETMEM_CUBLAS_INCLUDE cublasLt.h HINTS ${cublas_places} PATH_SUFFIXES include)
# The package has the library under its versioned name alone.
find_library(HETMEM_CUBLAS_LIBRARY NAMES libcublasLt.so.13 HINTS ${cublas_places}
  PATH_SUFFIXES lib64 lib)
if(NOT HETMEM_CUBLAS_INCLUDE OR NOT HETMEM_CUBLAS_LIBRARY)
  string(APPEND missing " cuBLAS 13 (of the toolkit, or `pip install nvidia-cublas==13.1.1.3`)")
endif()
if(missing)
  if(HETMEM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "HETMEM_CUDA is ON, but there is no${missing}")
  endif()
  message(STATUS "CUDA: off, there is no${missing}")
  return()
endif()

if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${HETMEM_NVCC})
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90 CACHE STRING "GPU architectures, ascending")
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
get_filename_component(HETMEM_CUBLAS_FOLDER ${HETMEM_CUBLAS_LIBRARY} DIRECTORY)
list(APPEND CMAKE_BUILD_RPATH ${HETMEM_CUBLAS_FOLDER})
list(APPEND CMAKE_INSTALL_RPATH ${HETMEM_CUBLAS_FOLDER})
set(HETMEM_HAS_CUDA ON)
message(STATUS "CUDA: ${CUDAToolkit_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}, "
  "cuBLAS in ${HETMEM_CUBLAS_FOLDER}")

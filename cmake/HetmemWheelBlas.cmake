# What hetmem takes of OpenBLAS, as a library of a wheel's own: another OpenBLAS in the process (that of
# NumPy) has the same name, and would be taken for it.
find_library(HETMEM_OPENBLAS_ARCHIVE NAMES libopenblas.a PATH_SUFFIXES openblas-openmp REQUIRED)
file(WRITE ${PROJECT_BINARY_DIR}/wheel_blas.cpp "")
add_library(hetmem_blas SHARED ${PROJECT_BINARY_DIR}/wheel_blas.cpp)
target_link_libraries(hetmem_blas PRIVATE ${HETMEM_OPENBLAS_ARCHIVE} OpenMP::OpenMP_CXX m)
target_link_options(hetmem_blas PRIVATE -Wl,-u,cblas_sgemm)
set(HETMEM_OPENBLAS_LIBRARY hetmem_blas)
install(TARGETS hetmem_blas EXPORT hetmem LIBRARY DESTINATION lib)

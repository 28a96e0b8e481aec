qh_unit_test(kernels/isa_test.c qh_kernels)
qh_unit_test(kernels/matrix_test.c qh_kernels)
include(${CMAKE_CURRENT_LIST_DIR}/forward.cmake)
qh_unit_test(kernels/cuda_absent_test.c qh_cuda)

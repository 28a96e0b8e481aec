# Matrix kernels: one translation unit a level, each with its own flags. -O3 for the kernels: their
# loops over lanes and steps must be unrolled completely.
set(QH_MATRIX_FILES cpu/isa.c cpu/matrix.c cpu/matrix_ref.c cpu/matrix_scalar.c cpu/pack.c cpu/acts.c)
set_source_files_properties(cpu/pack.c PROPERTIES COMPILE_OPTIONS "-O3")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND QH_MATRIX_FILES cpu/matrix_avx512.c)
  set_source_files_properties(cpu/matrix_avx512.c PROPERTIES COMPILE_OPTIONS
    "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512dq;-mavx512bw;-mavx512vl;-mavx512vnni")
endif()

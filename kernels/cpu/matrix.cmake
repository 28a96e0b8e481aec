# Matrix kernels: one translation unit a level, each with its own flags. -O3 for the kernels: their
# loops over lanes and steps must be unrolled completely.
set(QH_MATRIX_FILES cpu/isa.c cpu/matrix.c cpu/matrix_ref.c cpu/matrix_scalar.c cpu/pack.c cpu/acts.c)
set_source_files_properties(cpu/pack.c PROPERTIES COMPILE_OPTIONS "-O3")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(avx2_flags -mavx2 -mfma -mf16c)
  set(avx512_flags ${avx2_flags} -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx512vnni)
  foreach(level_flags
      "avx2;${avx2_flags}"
      "avxvnni;${avx2_flags};-mavxvnni"
      "avxvnni_evex;${avx2_flags};-mavx512f;-mavx512vl;-mavx512vnni"
      "avx512;${avx512_flags}"
      "avx512bf16;${avx512_flags};-mavx512bf16")
    list(POP_FRONT level_flags level)
    list(APPEND QH_MATRIX_FILES cpu/matrix_${level}.c)
    set_source_files_properties(cpu/matrix_${level}.c PROPERTIES COMPILE_OPTIONS "${level_flags}")
  endforeach()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  list(APPEND QH_MATRIX_FILES cpu/matrix_neon.c cpu/matrix_neondot.c)
  set_source_files_properties(cpu/matrix_neondot.c PROPERTIES COMPILE_OPTIONS
    -march=armv8.2-a+dotprod)
endif()

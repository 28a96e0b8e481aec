# Matrix kernels: one translation unit a level, each with its own flags. -O3 for the kernels: their
# loops over lanes and steps must be unrolled completely.
set(QH_MATRIX_FILES cpu/isa.c cpu/matrix.c cpu/matrix_ref.c cpu/matrix_scalar.c cpu/pack.c cpu/acts.c)
set_source_files_properties(cpu/pack.c PROPERTIES COMPILE_OPTIONS "-O3")

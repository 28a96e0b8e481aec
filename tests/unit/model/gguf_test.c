#include "test.h"
#include "gguf_builder.h"
#include "open_cost.h"

/* Parse an exact copy on the heap, so that a sanitizer sees a read past its end. */
static qh_status open_copy(qh_gguf **g, unsigned char **copy, const void *data, size_t len, qh_err *err)
{
    *copy = malloc(len ? len : 1);
    memcpy(*copy, data, len);
    return qh_gguf_open_bytes(g, "bad.gguf", *copy, len, err);
}

static uint64_t sum_items(const qh_gguf_kv *kv)
{
    uint64_t sum = 0;
    qh_gguf_item item;
    for (qh_gguf_iter it = qh_gguf_items(kv); qh_gguf_next(&it, &item);) {
        if (item.type == QH_GGUF_ARRAY) sum += sum_items(&item.v.array);
        else if (item.type == QH_GGUF_STRING)
            for (size_t i = 0; i < item.v.s.len; i++) sum += (unsigned char)item.v.s.data[i];
        else sum += item.v.u;
    }
    return sum;
}

/* Touch all that a parsed file hands out. */
static uint64_t touch(const qh_gguf *g)
{
    uint64_t sum = 0;
    for (int i = 0; i < qh_gguf_n_keys(g); i++) sum += sum_items(qh_gguf_kv_at(g, i));
    for (int i = 0; i < qh_gguf_n_tensors(g); i++) {
        const qh_gguf_tensor *t = qh_gguf_tensor_at(g, i);
        sum += t->data[0] + (uint64_t)t->data[t->len_bytes - 1];
    }
    return sum;
}

/* One key of every kind and two tensors. */
static void sample(gguf_builder *b)
{
    gb_begin(b, 3);
    gb_string(b, "general.architecture", "llama");
    gb_u32(b, "a.u32", 7);
    gb_f32(b, "a.f32", 0.5f);
    gb_bool(b, "a.bool", 1);
    gb_key(b, "a.i8", QH_GGUF_I8), gb_raw(b, "\xfe", 1);
    gb_key(b, "a.u8", QH_GGUF_U8), gb_raw(b, "\xfe", 1);
    gb_key(b, "a.i16", QH_GGUF_I16), gb_raw(b, "\xfe\xff", 2);
    gb_key(b, "a.u16", QH_GGUF_U16), gb_raw(b, "\xfe\xff", 2);
    gb_key(b, "a.i32", QH_GGUF_I32), gb_raw_u32(b, (uint32_t)-3);
    gb_key(b, "a.i64", QH_GGUF_I64), gb_raw_u64(b, (uint64_t)-4);
    gb_key(b, "a.u64", QH_GGUF_U64), gb_raw_u64(b, UINT64_MAX);
    double d = -2.5;
    gb_key(b, "a.f64", QH_GGUF_F64), gb_raw(b, &d, 8);
    gb_strings(b, "a.strings", (const char *const[]){"x", "", "yz"}, 3);
    gb_array(b, "a.ints", QH_GGUF_I32, 2), gb_raw_u32(b, 1), gb_raw_u32(b, (uint32_t)-1);
    gb_array(b, "a.nested", QH_GGUF_ARRAY, 2);
    gb_raw_u32(b, QH_GGUF_U8), gb_raw_u64(b, 2), gb_raw(b, "\1\2", 2);
    gb_raw_u32(b, QH_GGUF_STRING), gb_raw_u64(b, 1), gb_raw_str(b, "s", 1);
    gb_array(b, "a.empty", QH_GGUF_STRING, 0);
    gb_tensor(b, "w", 64, 3, QH_Q4_0);
    gb_tensor(b, "v", 5, 0, QH_F32);
    gb_finish(b, 9);
}

TEST(values_of_every_type_are_read)
{
    gguf_builder b = {0};
    sample(&b);
    qh_gguf *g;
    unsigned char *copy;
    CHECK_OK(open_copy(&g, &copy, b.bytes.data, b.bytes.len, NULL));

    int64_t i;
    CHECK_OK(qh_gguf_int(g, "a.u32", 0, 10, &i, NULL)), CHECK_INT(i, 7);
    CHECK_OK(qh_gguf_int(g, "a.i8", -5, 10, &i, NULL)), CHECK_INT(i, -2);
    CHECK_OK(qh_gguf_int(g, "a.u8", 0, 300, &i, NULL)), CHECK_INT(i, 254);
    CHECK_OK(qh_gguf_int(g, "a.i16", -5, 10, &i, NULL)), CHECK_INT(i, -2);
    CHECK_OK(qh_gguf_int(g, "a.u16", 0, 70000, &i, NULL)), CHECK_INT(i, 65534);
    CHECK_OK(qh_gguf_int(g, "a.i32", -5, 10, &i, NULL)), CHECK_INT(i, -3);
    CHECK_OK(qh_gguf_int(g, "a.i64", -5, 10, &i, NULL)), CHECK_INT(i, -4);
    CHECK_STATUS(qh_gguf_int(g, "a.u64", 0, INT64_MAX, &i, NULL), QH_EFORMAT);
    double d;
    CHECK_OK(qh_gguf_float(g, "a.f32", 0, 1, &d, NULL)), CHECK(d == 0.5);
    CHECK_OK(qh_gguf_float(g, "a.f64", -3, 1, &d, NULL)), CHECK(d == -2.5);
    bool flag;
    CHECK_OK(qh_gguf_bool(g, "a.bool", &flag, NULL)), CHECK(flag);
    qh_slice s;
    CHECK_OK(qh_gguf_string(g, "general.architecture", &s, NULL));
    CHECK(s.len == 5 && !memcmp(s.data, "llama", 5));
    free(copy);
    qh_gguf_close(g);
    qh_str_deinit(&b.bytes);
}

TEST(arrays_are_walked_item_by_item)
{
    gguf_builder b = {0};
    sample(&b);
    qh_gguf *g;
    unsigned char *copy;
    CHECK_OK(open_copy(&g, &copy, b.bytes.data, b.bytes.len, NULL));

    const qh_gguf_kv *kv;
    qh_gguf_item item;
    CHECK_OK(qh_gguf_array(g, "a.strings", QH_GGUF_STRING, 1, 3, &kv, NULL));
    qh_gguf_iter it = qh_gguf_items(kv);
    CHECK(qh_gguf_next(&it, &item) && item.v.s.len == 1 && item.v.s.data[0] == 'x');
    CHECK(qh_gguf_next(&it, &item) && item.v.s.len == 0);
    CHECK(qh_gguf_next(&it, &item) && item.v.s.len == 2 && item.v.s.data[1] == 'z');
    CHECK(!qh_gguf_next(&it, &item));

    it = qh_gguf_items(qh_gguf_find(g, "a.nested"));
    CHECK(qh_gguf_next(&it, &item) && item.v.array.n_items == 2 && sum_items(&item.v.array) == 3);
    CHECK(qh_gguf_next(&it, &item) && item.v.array.item_type == QH_GGUF_STRING);
    CHECK(sum_items(&item.v.array) == 's');
    CHECK(!qh_gguf_next(&it, &item));

    CHECK_OK(qh_gguf_array(g, "a.ints", QH_GGUF_I32, 2, 2, &kv, NULL));
    CHECK_INT(sum_items(kv), 0);
    CHECK_OK(qh_gguf_array(g, "a.empty", QH_GGUF_STRING, 0, 3, &kv, NULL));
    it = qh_gguf_items(kv);
    CHECK(!qh_gguf_next(&it, &item));
    free(copy);
    qh_gguf_close(g);
    qh_str_deinit(&b.bytes);
}

TEST(tensors_are_found_with_their_shape_and_place)
{
    gguf_builder b = {0};
    sample(&b);
    qh_gguf *g;
    unsigned char *copy;
    CHECK_OK(open_copy(&g, &copy, b.bytes.data, b.bytes.len, NULL));
    CHECK_INT(qh_gguf_n_tensors(g), 2);
    CHECK_INT(qh_gguf_version(g), 3);
    CHECK_INT(qh_gguf_file_bytes(g), b.bytes.len);
    CHECK_INT(qh_gguf_meta_bytes(g).len, b.meta_bytes);
    const qh_gguf_tensor *w = qh_gguf_find_tensor(g, "w"), *v = qh_gguf_find_tensor(g, "v");
    CHECK(w && v && !qh_gguf_find_tensor(g, "u"));
    CHECK(w->dtype == QH_Q4_0 && w->n_dims == 2 && w->dims[0] == 64 && w->dims[1] == 3 && w->dims[2] == 1);
    CHECK_INT(w->len_bytes, 3 * 36);
    CHECK(w->data == copy + (b.meta_bytes + 31) / 32 * 32);
    CHECK(v->data == w->data + 128 && v->n_dims == 1 && v->dims[0] == 5 && v->dims[1] == 1);
    free(copy);
    qh_gguf_close(g);
    qh_str_deinit(&b.bytes);
}

TEST(typed_access_says_what_it_expected)
{
    gguf_builder b = {0};
    sample(&b);
    qh_gguf *g;
    unsigned char *copy;
    CHECK_OK(open_copy(&g, &copy, b.bytes.data, b.bytes.len, NULL));
    int64_t i = 42;
    double d = 42;
    bool flag;
    qh_slice s;
    const qh_gguf_kv *kv;
    qh_err err = {0};
    CHECK_STATUS(qh_gguf_int(g, "a.u32", 8, 10, &i, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.u32': is 7, expected an integer from 8 to 10");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_int(g, "a.none", 8, 10, &i, &err), QH_ENOTFOUND);
    CHECK_STR(err.msg, "bad.gguf: key 'a.none': missing, expected an integer from 8 to 10");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_int(g, "a.f32", 8, 10, &i, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.f32': is an f32, expected an integer from 8 to 10");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_float(g, "a.u32", 0, 10, &d, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.u32': is a u32, expected a float from 0 to 10");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_float(g, "a.f32", 1, 10, &d, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.f32': is 0.5, expected a float from 1 to 10");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_bool(g, "a.u8", &flag, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.u8': is a u8, expected a bool");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_string(g, "a.strings", &s, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.strings': is an array of string, expected a string");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_array(g, "a.ints", QH_GGUF_STRING, 0, 9, &kv, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.ints': is an array of i32, expected an array of 0 to 9 items of "
                       "type string");
    qh_err_clear(&err);
    CHECK_STATUS(qh_gguf_array(g, "a.ints", QH_GGUF_I32, 3, 9, &kv, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "bad.gguf: key 'a.ints': has 2 items, expected an array of 3 to 9 items of type i32");
    CHECK_INT(i, 42);
    CHECK(d == 42);
    free(copy);
    qh_gguf_close(g);
    qh_str_deinit(&b.bytes);
}

/* ---- crafted bad files: one row an error path ---- */

static const uint64_t k_dims[4] = {32, 2, 1, 1};

static void with_magic(gguf_builder *b) { gb_begin(b, 3), memcpy(b->bytes.data, "GGML", 4); }
static void with_version_1(gguf_builder *b) { gb_begin(b, 1); }
static void with_version_4(gguf_builder *b) { gb_begin(b, 4); }
static void with_version_0(gguf_builder *b) { gb_begin(b, 0); }
static void big_endian(gguf_builder *b) { gb_begin(b, 0x03000000); }
static void no_bytes(gguf_builder *b) { (void)b; }
static void half_a_header(gguf_builder *b) { gb_begin(b, 3), b->bytes.len = 20; }
static void too_many_keys(gguf_builder *b) { gb_begin(b, 3), b->n_keys = UINT64_MAX; }
static void keys_that_do_not_fit(gguf_builder *b) { gb_begin(b, 3), b->n_keys = 4000; }
static void too_many_tensors(gguf_builder *b) { gb_begin(b, 3), b->n_tensors = (uint64_t)1 << 62; }
static void tensors_that_do_not_fit(gguf_builder *b) { gb_begin(b, 3), b->n_tensors = 65000; }
static void raw_key(gguf_builder *b, uint64_t len, const char *bytes, size_t n)
{
    gb_begin(b, 3), b->n_keys = 1;
    gb_raw_u64(b, len), gb_raw(b, bytes, n);
    gb_raw(b, "\0\0\0\0\0\0\0\0\0\0\0\0\0", 13);
}
static void key_of_no_bytes(gguf_builder *b) { raw_key(b, 0, "", 0); }
static void key_of_huge_length(gguf_builder *b) { raw_key(b, UINT64_MAX - 7, "abc", 3); }
static void key_over_the_limit(gguf_builder *b)
{
    char name[300];
    memset(name, 'k', sizeof name);
    raw_key(b, 300, name, 300);
}
static void key_past_the_end(gguf_builder *b) { raw_key(b, 200, "abc", 3); }
static void key_with_a_newline(gguf_builder *b) { raw_key(b, 3, "a\nb", 3); }
static void key_with_nul(gguf_builder *b) { raw_key(b, 3, "a\0b", 3); }
static void unknown_value_type(gguf_builder *b) { gb_begin(b, 3), gb_key(b, "k.x", 13), gb_raw_u64(b, 0); }
static void value_missing(gguf_builder *b) { gb_begin(b, 3), gb_key(b, "k.xyz", QH_GGUF_U64), gb_raw(b, "1234567", 7); }
static void type_missing(gguf_builder *b)
{
    gb_begin(b, 3), b->n_keys = 1, gb_raw_str(b, "key.x", 5), gb_raw(b, "\1", 1);
}
static void string_of_huge_length(gguf_builder *b)
{
    gb_begin(b, 3), gb_key(b, "k.s", QH_GGUF_STRING), gb_raw_u64(b, UINT64_MAX), gb_raw(b, "x", 1);
}
static void string_past_the_end(gguf_builder *b)
{
    gb_begin(b, 3), gb_key(b, "k.s", QH_GGUF_STRING), gb_raw_u64(b, 1000), gb_raw(b, "x", 1);
}
static void bool_of_two(gguf_builder *b) { gb_begin(b, 3), gb_bool(b, "k.b", 2); }
static void bool_of_two_in_an_array(gguf_builder *b)
{
    gb_begin(b, 3), gb_array(b, "k.b", QH_GGUF_BOOL, 2), gb_raw(b, "\0\2", 2);
}
static void array_of_huge_length(gguf_builder *b) { gb_begin(b, 3), gb_array(b, "k.a", QH_GGUF_U64, (uint64_t)1 << 61); }
static void array_past_the_end(gguf_builder *b) { gb_begin(b, 3), gb_array(b, "k.a", QH_GGUF_U64, 4000000); }
static void array_of_unknown_type(gguf_builder *b) { gb_begin(b, 3), gb_array(b, "k.a", 99, 1), gb_raw_u64(b, 0); }
static void array_string_past_the_end(gguf_builder *b)
{
    gb_begin(b, 3), gb_array(b, "k.a", QH_GGUF_STRING, 2);
    gb_raw_str(b, "ok", 2), gb_raw_u64(b, 50);
}
static void arrays_nested_too_deep(gguf_builder *b)
{
    gb_begin(b, 3), gb_array(b, "k.a", QH_GGUF_ARRAY, 1);
    for (int i = 0; i < 64; i++) gb_raw_u32(b, QH_GGUF_ARRAY), gb_raw_u64(b, 1);
}
static void nested_array_past_the_end(gguf_builder *b)
{
    gb_begin(b, 3), gb_array(b, "k.a", QH_GGUF_ARRAY, 3), gb_raw_u32(b, QH_GGUF_U8), gb_raw_u64(b, 0);
}
static void same_key_twice(gguf_builder *b)
{
    gb_begin(b, 3), gb_u32(b, "k.twice", 1), gb_u32(b, "k.other", 1), gb_bool(b, "k.twice", 1);
}
static void aligned(gguf_builder *b, uint32_t a) { gb_begin(b, 3), gb_u32(b, "general.alignment", a), gb_tensor(b, "w", 32, 2, QH_F32); }
static void alignment_zero(gguf_builder *b) { aligned(b, 0); }
static void alignment_24(gguf_builder *b) { aligned(b, 24); }
static void alignment_huge(gguf_builder *b) { aligned(b, 0x80000000u); }
static void alignment_string(gguf_builder *b) { gb_begin(b, 3), gb_string(b, "general.alignment", "32"); }

static void one_tensor(gguf_builder *b, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                       uint64_t offset)
{
    gb_begin(b, 3), gb_tensor_at(b, name, n_dims, dims, type, offset), b->data_bytes = 256;
}
static void tensor_without_name(gguf_builder *b) { one_tensor(b, "", 2, k_dims, QH_F32, 0); }
static void tensor_of_long_name(gguf_builder *b)
{
    one_tensor(b, "12345678901234567890123456789012345678901234567890123456789012345", 2, k_dims, QH_F32, 0);
}
static void tensor_of_odd_name(gguf_builder *b) { one_tensor(b, "w\x80", 2, k_dims, QH_F32, 0); }
static void tensor_of_no_dims(gguf_builder *b) { one_tensor(b, "w", 0, k_dims, QH_F32, 0); }
static void tensor_of_five_dims(gguf_builder *b) { one_tensor(b, "w", 5, (const uint64_t[5]){1, 1, 1, 1, 1}, QH_F32, 0); }
static void tensor_of_dim_zero(gguf_builder *b) { one_tensor(b, "w", 2, (const uint64_t[2]){32, 0}, QH_F32, 0); }
static void tensor_of_dim_2_63(gguf_builder *b) { one_tensor(b, "w", 1, (const uint64_t[1]){(uint64_t)1 << 63}, QH_F32, 0); }
static void tensor_elements_wrap(gguf_builder *b)
{
    one_tensor(b, "w", 4, (const uint64_t[4]){1 << 16, 1 << 16, 1 << 16, 1 << 16}, QH_F32, 0);
}
static void tensor_bytes_wrap(gguf_builder *b)
{
    one_tensor(b, "w", 2, (const uint64_t[2]){(uint64_t)1 << 31, (uint64_t)1 << 31}, QH_F32, 0);
}
static void tensor_row_bytes_wrap(gguf_builder *b) { one_tensor(b, "w", 1, (const uint64_t[1]){(uint64_t)1 << 62}, QH_F32, 0); }
static void tensor_of_removed_type(gguf_builder *b) { one_tensor(b, "w", 2, k_dims, 4, 0); }
static void tensor_of_iq2(gguf_builder *b) { one_tensor(b, "w", 2, k_dims, 16, 0); }
static void tensor_of_wild_type(gguf_builder *b) { one_tensor(b, "w", 2, k_dims, 0xffffffffu, 0); }
static void tensor_of_broken_blocks(gguf_builder *b) { one_tensor(b, "w", 2, k_dims, QH_Q4_K, 0); }
static void tensor_misaligned(gguf_builder *b) { one_tensor(b, "w", 1, k_dims, QH_F32, 8); }
static void tensor_past_the_end(gguf_builder *b) { one_tensor(b, "w", 2, k_dims, QH_F32, 32); }
static void tensor_far_past_the_end(gguf_builder *b) { one_tensor(b, "w", 2, k_dims, QH_F32, UINT64_MAX - 31); }
static void tensor_one_byte_short(gguf_builder *b) { one_tensor(b, "w", 2, k_dims, QH_F32, 0), b->data_bytes = 255; }
static void directory_cut(gguf_builder *b)
{
    one_tensor(b, "w", 2, k_dims, QH_F32, 0);
    gb_raw_str(b, "v", 1), gb_raw_u32(b, 1), gb_raw_u64(b, 1), gb_raw_u32(b, 0), gb_raw(b, "1234567", 7);
    b->n_tensors = 2, b->data_bytes = 0;
}
static void same_tensor_twice(gguf_builder *b)
{
    gb_begin(b, 3), gb_tensor(b, "w", 32, 2, QH_F32), gb_tensor(b, "v", 8, 0, QH_F32), gb_tensor(b, "w", 8, 0, QH_F32);
}
static void tensors_overlap(gguf_builder *b)
{
    gb_begin(b, 3);
    gb_tensor_at(b, "w", 2, k_dims, QH_F32, 0), gb_tensor_at(b, "v", 1, k_dims, QH_F32, 128);
    b->data_bytes = 256;
}
static void split_in_memory(gguf_builder *b)
{
    gb_begin(b, 3), gb_u32(b, "split.count", 2), gb_u32(b, "split.no", 0), gb_u32(b, "split.tensors.count", 1);
}
static void split_second_part(gguf_builder *b) { gb_begin(b, 3), gb_u32(b, "split.count", 2), gb_u32(b, "split.no", 1); }
static void split_count_wild(gguf_builder *b) { gb_begin(b, 3), gb_u32(b, "split.count", 60000), gb_u32(b, "split.no", 0); }
static void split_no_missing(gguf_builder *b) { gb_begin(b, 3), gb_u32(b, "split.count", 2); }

static const struct bad_file {
    void (*build)(gguf_builder *b);
    qh_status status;
    const char *says;                   /* after "bad.gguf: " */
} bad_files[] = {
    {no_bytes, QH_EFORMAT, "0 bytes, expected a GGUF header of 24"},
    {half_a_header, QH_EFORMAT, "20 bytes, expected a GGUF header of 24"},
    {with_magic, QH_EFORMAT, "header: starts with bytes 47 47 4d 4c, expected \"GGUF\""},
    {with_version_0, QH_EUNSUPPORTED, "header: version 0, expected 2 or 3"},
    {with_version_1, QH_EUNSUPPORTED, "header: version 1, expected 2 or 3"},
    {with_version_4, QH_EUNSUPPORTED, "header: version 4, expected 2 or 3"},
    {big_endian, QH_EUNSUPPORTED, "header: a big-endian file, expected little-endian"},
    {too_many_keys, QH_ELIMIT, "header: 18446744073709551615 keys, expected at most 4096"},
    {keys_that_do_not_fit, QH_EFORMAT, "header: 4000 keys do not fit in a file of 32 bytes"},
    {too_many_tensors, QH_ELIMIT, "header: 4611686018427387904 tensors, expected at most 65536"},
    {tensors_that_do_not_fit, QH_EFORMAT, "header: 65000 tensors do not fit in a file of 32 bytes"},
    {key_of_no_bytes, QH_EFORMAT, "key number 0: a name of 0 bytes, expected 1 to 256"},
    {key_of_huge_length, QH_EFORMAT, "key number 0: a name of 18446744073709551608 bytes, expected 1 to 256"},
    {key_over_the_limit, QH_EFORMAT, "key number 0: a name of 300 bytes, expected 1 to 256"},
    {key_past_the_end, QH_EFORMAT, "key number 0: the name at byte 32 needs 200 bytes, but the file ends at"},
    {key_with_a_newline, QH_EFORMAT, "key number 0: byte 0x0a in its name, expected printable ASCII"},
    {key_with_nul, QH_EFORMAT, "key number 0: byte 0x00 in its name, expected printable ASCII"},
    {unknown_value_type, QH_EFORMAT, "key 'k.x': the value's type is 13, expected 0 (u8) to 12 (f64)"},
    {type_missing, QH_EFORMAT, "key 'key.x': the value's type at byte 37 needs 4 bytes, but"},
    {value_missing, QH_EFORMAT, "key 'k.xyz': the value at byte 41 needs 8 bytes, but the file ends at byte 48"},
    {string_of_huge_length, QH_ELIMIT, "key 'k.s': a string of 18446744073709551615 bytes, expected at most 4194304"},
    {string_past_the_end, QH_EFORMAT, "key 'k.s': a string at byte 47 needs 1000 bytes, but the file ends at"},
    {bool_of_two, QH_EFORMAT, "key 'k.b': a bool of value 2, expected 0 or 1"},
    {bool_of_two_in_an_array, QH_EFORMAT, "key 'k.b': a bool of value 2, expected 0 or 1"},
    {array_of_huge_length, QH_ELIMIT, "key 'k.a': an array of 2305843009213693952 items, expected at most 4194304"},
    {array_past_the_end, QH_EFORMAT, "key 'k.a': the value at byte 51 needs 32000000 bytes, but the file ends at"},
    {array_of_unknown_type, QH_EFORMAT, "key 'k.a': the array's item type is 99, expected 0 (u8) to 12 (f64)"},
    {array_string_past_the_end, QH_EFORMAT, "key 'k.a': a string at byte 69 needs 50 bytes, but the file ends"},
    {arrays_nested_too_deep, QH_ELIMIT, "key 'k.a': arrays nested over 4 deep"},
    {nested_array_past_the_end, QH_EFORMAT, "key 'k.a': the array's item type at byte 63 needs 4 bytes, but"},
    {same_key_twice, QH_EFORMAT, "key 'k.twice': appears twice, expected once"},
    {alignment_zero, QH_EFORMAT, "key 'general.alignment': is 0, expected an integer from 8 to 1048576"},
    {alignment_24, QH_EFORMAT, "key 'general.alignment': is 24, expected a power of two"},
    {alignment_huge, QH_EFORMAT, "key 'general.alignment': is 2147483648, expected an integer from 8 to 1048576"},
    {alignment_string, QH_EFORMAT, "key 'general.alignment': is a string, expected an integer from 8 to 1048576"},
    {tensor_without_name, QH_EFORMAT, "tensor number 0: a name of 0 bytes, expected 1 to 64"},
    {tensor_of_long_name, QH_EFORMAT, "tensor number 0: a name of 65 bytes, expected 1 to 64"},
    {tensor_of_odd_name, QH_EFORMAT, "tensor number 0: byte 0x80 in its name, expected printable ASCII"},
    {tensor_of_no_dims, QH_EFORMAT, "tensor 'w': 0 dimensions, expected 1 to 4"},
    {tensor_of_five_dims, QH_EFORMAT, "tensor 'w': 5 dimensions, expected 1 to 4"},
    {tensor_of_dim_zero, QH_EFORMAT, "tensor 'w': dimension 1 is 0, expected at least 1"},
    {tensor_of_dim_2_63, QH_EFORMAT, "tensor 'w': dimension 0 is 9223372036854775808, expected at least 1"},
    {tensor_elements_wrap, QH_EFORMAT, "tensor 'w': dimension 3 is 65536, expected at least 1 and fewer than 2^63"},
    {tensor_bytes_wrap, QH_EFORMAT, "tensor 'w': more than 2^64 bytes"},
    {tensor_row_bytes_wrap, QH_EFORMAT, "tensor 'w': rows of 4611686018427387904 elements"},
    {tensor_of_removed_type, QH_EUNSUPPORTED, "tensor 'w': type 4 (unknown) is not supported, expected one of F32"},
    {tensor_of_iq2, QH_EUNSUPPORTED, "tensor 'w': type 16 (IQ2_XXS) is not supported, expected one of F32"},
    {tensor_of_wild_type, QH_EUNSUPPORTED, "tensor 'w': type 4294967295 (unknown) is not supported"},
    {tensor_of_broken_blocks, QH_EFORMAT, "tensor 'w': rows of 32 elements, expected a multiple of 256 for type Q4_K"},
    {tensor_misaligned, QH_EFORMAT, "tensor 'w': offset 8, expected a multiple of the alignment 32"},
    {tensor_past_the_end, QH_EFORMAT, "tensor 'w': 256 bytes of data at offset 32 go past the end of the file"},
    {tensor_far_past_the_end, QH_EFORMAT, "tensor 'w': 256 bytes of data at offset 18446744073709551584 go past"},
    {tensor_one_byte_short, QH_EFORMAT, "tensor 'w': 256 bytes of data at offset 0 go past the end of the file"},
    {directory_cut, QH_EFORMAT, "tensor 'v': the offset at byte"},
    {same_tensor_twice, QH_EFORMAT, "tensor 'w': appears twice, expected once"},
    {tensors_overlap, QH_EFORMAT, "tensor 'v': overlaps tensor 'w', expected data of its own"},
    {split_in_memory, QH_EUNSUPPORTED, "a split model, expected a whole one"},
    {split_second_part, QH_EINVAL, "part 2 of a split model, expected its first file"},
    {split_count_wild, QH_EFORMAT, "key 'split.count': is 60000, expected an integer from 0 to 512"},
    {split_no_missing, QH_ENOTFOUND, "key 'split.no': missing, expected an integer from 0 to 1"},
};

/* Rows whose bytes end where the fault is: no padding to full data behind them. */
static void finish_bad(gguf_builder *b)
{
    if (b->bytes.len >= 24) {
        memcpy(b->bytes.data + 8, &b->n_tensors, 8);
        memcpy(b->bytes.data + 16, &b->n_keys, 8);
    }
    while (b->data_bytes && b->bytes.len % 32) qh_str_append_c(&b->bytes, 0);
    for (; b->data_bytes; b->data_bytes--) qh_str_append_c(&b->bytes, 0);
    if (b->bytes.len == 24) gb_raw_u64(b, 0);       /* a header and some bytes */
}

TEST(each_bad_file_is_refused_with_file_place_and_expectation)
{
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        const struct bad_file *row = &bad_files[i];
        gguf_builder b = {0};
        row->build(&b);
        finish_bad(&b);
        qh_gguf *g = (qh_gguf *)1;
        unsigned char *copy;
        qh_err err = {0};
        qh_status st = open_copy(&g, &copy, b.bytes.data ? b.bytes.data : "", b.bytes.len, &err);
        if (st != row->status || strncmp(err.msg, "bad.gguf: ", 10) ||
            strncmp(err.msg + 10, row->says, strlen(row->says)))
            fail_msg("row %zu: %s: %s\n  wanted %s: %s", i, qh_status_name(st), err.msg,
                     qh_status_name(row->status), row->says);
        CHECK(g == NULL);
        free(copy);
        qh_str_deinit(&b.bytes);
    }
}

TEST(every_truncation_is_refused)
{
    gguf_builder b = {0};
    sample(&b);
    for (size_t len = 0; len < b.bytes.len - 12; len++) {       /* 12: padding of the last tensor */
        qh_gguf *g;
        unsigned char *copy;
        qh_err err = {0};
        if (!open_copy(&g, &copy, b.bytes.data, len, &err)) fail_msg("%zu bytes of a file are taken", len);
        CHECK(strstr(err.msg, "bad.gguf"));
        free(copy);
    }
    qh_str_deinit(&b.bytes);
}

TEST(every_changed_byte_is_refused_or_harmless)
{
    gguf_builder b = {0};
    sample(&b);
    const unsigned char values[] = {0, 1, 2, 8, 9, 0x1f, 0x20, 0x7f, 0x80, 0xff};
    int n_taken = 0, n_refused = 0;
    for (size_t at = 0; at < b.meta_bytes; at++) {
        for (size_t v = 0; v < sizeof values; v++) {
            qh_gguf *g;
            unsigned char *copy;
            char old = b.bytes.data[at];
            b.bytes.data[at] = (char)values[v];
            if (open_copy(&g, &copy, b.bytes.data, b.bytes.len, NULL)) n_refused++;
            else n_taken += 1 + (touch(g) == UINT64_MAX);
            qh_gguf_close(g);
            free(copy);
            b.bytes.data[at] = old;
        }
    }
    CHECK(n_taken > 100 && n_refused > 1000);
    qh_str_deinit(&b.bytes);
}

/* ---- the worst that fits the limits ---- */

static void most_keys(gguf_builder *b)
{
    gb_begin(b, 3);
    for (int i = 0; i < QH_GGUF_MAX_KEYS; i++) {
        char key[QH_GGUF_MAX_KEY_BYTES + 1];
        snprintf(key, sizeof key, "%0*d", QH_GGUF_MAX_KEY_BYTES, i / 2);
        gb_bool(b, key, 1);
    }
}

static void most_tensors(gguf_builder *b)
{
    gb_begin(b, 3);
    for (int i = 0; i < QH_GGUF_MAX_TENSORS; i++) {
        char name[QH_GGUF_MAX_NAME_BYTES + 1];
        snprintf(name, sizeof name, "%0*d", QH_GGUF_MAX_NAME_BYTES, i < 10 ? 9 : i);
        gb_tensor(b, name, 1, 0, QH_F32);
    }
}

static void most_strings(gguf_builder *b)
{
    gb_begin(b, 3);
    gb_array(b, "k.most", QH_GGUF_STRING, QH_GGUF_MAX_ARRAY_LEN - 1);
    for (int i = 0; i < QH_GGUF_MAX_ARRAY_LEN - 1; i++) gb_raw_u64(b, 0);
}

static void most_empty_arrays(gguf_builder *b)
{
    gb_begin(b, 3);
    gb_array(b, "k.most", QH_GGUF_ARRAY, 2000000);
    for (int i = 0; i < 2000000; i++) gb_raw_u32(b, QH_GGUF_ARRAY), gb_raw_u64(b, 0);
}

static void most_metadata(gguf_builder *b)
{
    char *big = calloc(1, QH_GGUF_MAX_STRING_BYTES);
    gb_begin(b, 3);
    for (int i = 0; i < 7; i++) {
        char key[8];
        snprintf(key, sizeof key, "k.%d", i);
        gb_key(b, key, QH_GGUF_STRING), gb_raw_str(b, big, QH_GGUF_MAX_STRING_BYTES);
    }
    free(big);
}

static qh_status open_and_close(const char *path, qh_err *err)
{
    qh_gguf *g;
    const qh_status st = qh_gguf_open(&g, path, err);
    qh_gguf_close(g);
    return st;
}

static void check_worst(void (*build)(gguf_builder *b), qh_status status, const char *says)
{
    gguf_builder b = {0};
    build(&b);
    gb_finish(&b, 0);
    const open_cost cost = measure_open(open_and_close, &b.bytes);
    check_cost(&cost, status, says);
}

TEST(the_worst_files_within_the_limits_cost_under_a_second_and_64_mb)
{
    check_worst(most_keys, QH_EFORMAT, "appears twice");
    check_worst(most_tensors, QH_EFORMAT, "appears twice");
    check_worst(most_strings, QH_ELIMIT, "metadata goes past 25165824 bytes");
    check_worst(most_empty_arrays, QH_OK, "");
    check_worst(most_metadata, QH_ELIMIT, "key 'k.5': metadata goes past 25165824 bytes");
}

/* ---- split models ---- */

typedef struct {
    char dir[64];
    qh_str first;                       /* path of the first shard */
} split_fixture;

static void write_shard(const split_fixture *f, int no, int n_shards, uint32_t says_no, const char *tensor)
{
    gguf_builder b = {0};
    gb_begin(&b, 3);
    if (no == 0) gb_u32(&b, "a.first", 1);
    gb_u32(&b, "split.no", says_no);
    gb_u32(&b, "split.count", (uint32_t)n_shards);
    gb_u32(&b, "split.tensors.count", 3);
    if (tensor) gb_tensor(&b, tensor, 8, 2, QH_F32);
    gb_finish(&b, (unsigned char)no);
    char path[128];
    snprintf(path, sizeof path, "%s/m-%05d-of-%05d.gguf", f->dir, no + 1, n_shards);
    FILE *out = fopen(path, "wb");
    CHECK(out && fwrite(b.bytes.data, 1, b.bytes.len, out) == b.bytes.len);
    fclose(out);
    qh_str_deinit(&b.bytes);
}

static void split_begin(split_fixture *f)
{
    *f = (split_fixture){.dir = "/tmp/qhost-split-test-XXXXXX"};
    CHECK(mkdtemp(f->dir));
    qh_str_appendf(&f->first, "%s/m-00001-of-00003.gguf", f->dir);
    write_shard(f, 0, 3, 0, "a");
    write_shard(f, 1, 3, 1, "b");
    write_shard(f, 2, 3, 2, "c");
}

static void split_end(split_fixture *f)
{
    for (int i = 1; i <= 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/m-%05d-of-00003.gguf", f->dir, i);
        unlink(path);
    }
    rmdir(f->dir);
    qh_str_deinit(&f->first);
}

TEST(a_split_model_opens_by_its_first_shard)
{
    split_fixture f;
    split_begin(&f);
    qh_gguf *g;
    qh_err err = {0};
    if (qh_gguf_open(&g, f.first.data, &err)) fail_msg("%s", err.msg);
    CHECK_INT(qh_gguf_n_shards(g), 3);
    CHECK_INT(qh_gguf_n_tensors(g), 3);
    CHECK(qh_gguf_find(g, "a.first"));
    CHECK_INT(qh_gguf_find_tensor(g, "a")->data[0], 0);
    CHECK_INT(qh_gguf_find_tensor(g, "b")->data[63], 1);
    CHECK_INT(qh_gguf_find_tensor(g, "c")->data[63], 2);
    CHECK_INT(qh_gguf_find_tensor(g, "c")->shard, 2);
    qh_gguf_close(g);
    split_end(&f);
}

static void check_split_refused(const split_fixture *f, const char *path, qh_status status, const char *says)
{
    qh_gguf *g;
    qh_err err = {0};
    CHECK_STATUS(qh_gguf_open(&g, path ? path : f->first.data, &err), status);
    if (!strstr(err.msg, says)) fail_msg("%s\n  wanted %s", err.msg, says);
    CHECK(!g);
}

TEST(broken_splits_are_refused)
{
    split_fixture f;
    split_begin(&f);
    char second[128], renamed[128];
    snprintf(second, sizeof second, "%s/m-00002-of-00003.gguf", f.dir);
    snprintf(renamed, sizeof renamed, "%s/m.gguf", f.dir);
    check_split_refused(&f, second, QH_EINVAL, "part 2 of a split model, expected its first file");

    write_shard(&f, 1, 3, 2, "b");
    check_split_refused(&f, NULL, QH_EFORMAT, "m-00002-of-00003.gguf: key 'split.no': is 2, expected an integer "
                                              "from 1 to 1");
    write_shard(&f, 1, 3, 1, "a");
    check_split_refused(&f, NULL, QH_EFORMAT, "tensor 'a': appears twice");
    write_shard(&f, 1, 3, 1, NULL);
    check_split_refused(&f, NULL, QH_EFORMAT, "key 'split.tensors.count': is 3, but the 3 files hold 2");
    unlink(second);
    check_split_refused(&f, NULL, QH_ENOTFOUND, "m-00002-of-00003.gguf: No such file");
    rename(f.first.data, renamed);
    check_split_refused(&f, renamed, QH_EFORMAT, "expected a name that ends in -00001-of-00003.gguf");
    unlink(renamed);
    split_end(&f);
}
TEST_MAIN()

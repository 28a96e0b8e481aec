#include "lua/vm/convert.h"
#include "vm_fixture.h"

static void check_round(lua_State *L, const char *in, const char *want)
{
    qh_err err = {0};
    qh_str out = {0};
    int top = lua_gettop(L);
    qh_status st = qh_json_decode(L, in, strlen(in), &err);
    if (!st) st = qh_json_encode(L, -1, false, &out, &err);
    const char *got = st ? err.msg : qh_str_z(&out);
    if (strcmp(got, want) != 0) print_error("%s\n  got  %s\n  want %s\n", in, got, want);
    CHECK(strcmp(got, want) == 0);
    lua_settop(L, top);
    qh_str_deinit(&out);
}

TEST(documents_survive_a_round_trip)
{
    fixture f = fixture_open(NULL);
    lua_State *L = qh_vm_lua(f.vm);
    static const char *const SAME[] = {"null",
                                       "true",
                                       "false",
                                       "0",
                                       "-1",
                                       "9223372036854775807",
                                       "-9223372036854775808",
                                       "1.5",
                                       "1e+300",
                                       "\"\"",
                                       "\"a\\\"b\\\\c\\n\"",
                                       "\"\xc3\xa9\xf0\x9f\x98\x80\"",
                                       "[]",
                                       "{}",
                                       "[[],{},null]",
                                       "{\"z\":1,\"a\":2,\"m\":{\"y\":[],\"b\":{}}}",
                                       "[{\"b\":1,\"a\":2},{\"b\":3,\"a\":4},{\"a\":5,\"b\":6}]",
                                       "{\"\":{\"\":null}}",
                                       "[null,1]",
                                       "0.1",
                                       "\"\\u0000\\u001f\""};
    for (size_t i = 0; i < sizeof SAME / sizeof *SAME; i++) check_round(L, SAME[i], SAME[i]);
    check_round(L, " { \"a\" : [ 1 , 2 ] } ", "{\"a\":[1,2]}");
    check_round(L, "\"\\ud83d\\ude00\\/\\b\"", "\"\xf0\x9f\x98\x80/\\u0008\"");
    check_round(L, "\"\\ud83d\"", "\"\xef\xbf\xbd\"");
    check_round(L, "9223372036854775808", "9.223372036854776e+18");
    check_round(L, "1.0", "1.0");
    check_round(L, "{\"a\":1,\"b\":2,\"a\":3}", "{\"a\":3,\"b\":2}");
    fixture_close(&f);
}

TEST(objects_of_many_keys_keep_their_order)
{
    fixture f = fixture_open(NULL);
    qh_str s = {0};
    qh_str_append_c(&s, '{');
    for (int i = 0; i < 100; i++)
        qh_str_appendf(&s, "%s\"key%d\":%d", i ? "," : "", i * 37 % 100, i);
    qh_str_appendf(&s, ",\"%060d\":0}", 7);
    check_round(qh_vm_lua(f.vm), qh_str_z(&s), qh_str_z(&s));
    qh_str_deinit(&s);
    fixture_close(&f);
}

TEST(malformed_documents_are_refused_with_their_place)
{
    fixture f = fixture_open(NULL);
    lua_State *L = qh_vm_lua(f.vm);
    check_round(L, "", "unexpected end at line 1, column 1");
    check_round(L, "{\n \"a\": tru}", "unexpected word at line 2, column 7");
    check_round(L, "[1,]", "unexpected character at line 1, column 4");
    check_round(L, "{\"a\":1,}", "expected a key in quotes at line 1, column 8");
    check_round(L, "[1 2]", "expected ',' or ']' at line 1, column 4");
    check_round(L, "01", "number with a leading zero at line 1, column 1");
    check_round(L, "1.", "number without a digit behind its point at line 1, column 1");
    check_round(L, "-", "unexpected character at line 1, column 1");
    check_round(L, "1e999", "number out of range at line 1, column 1");
    check_round(L, "\"a", "string without an end at line 1, column 1");
    check_round(L, "\"a\nb\"", "control character in a string at line 1, column 3");
    check_round(L, "\"\\x\"", "bad escape at line 1, column 2");
    check_round(L, "\"\xff\"", "invalid UTF-8 at line 1, column 2");
    check_round(L, "\"\xed\xa0\x80\"", "invalid UTF-8 at line 1, column 2");
    check_round(L, "1 1", "unexpected text behind the value at line 1, column 3");
    check_round(L, "nul", "unexpected word at line 1, column 1");
    check_round(L, "NaN", "unexpected character at line 1, column 1");
    char deep[500];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    check_round(L, deep, "nested too deep at line 1, column 201");
    fixture_close(&f);
}

TEST(lua_values_are_written_canonically)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(
        &f,
        "local j = require 'qhost'.json return j.encode{b = 1, a = {}, c = j.array(), d = {1, 2}}",
        "{\"a\":{},\"b\":1,\"c\":[],\"d\":[1,2]}");
    CHECK_RUN(&f,
              "local j = require 'qhost'.json return j.encode(j.object({b = 1, a = 2, x = 3}, "
              "{'x', 'b', 'x', 'none'}))",
              "{\"x\":3,\"b\":1,\"a\":2}");
    CHECK_RUN(&f,
              "local j = require 'qhost'.json return "
              "j.encode(j.decode('{\"b\":1,\"a\":{\"d\":1,\"c\":2}}'), {sort = true})",
              "{\"a\":{\"c\":2,\"d\":1},\"b\":1}");
    CHECK_RUN(&f,
              "local j = require 'qhost'.json local t = j.decode('{\"b\":1}') t.a = 2 t.b = nil "
              "t.c = j.null return j.encode(t)",
              "{\"a\":2,\"c\":null}");
    CHECK_RUN(&f, "local j = require 'qhost'.json return j.encode('\\255\\xc3\\xa9')",
              "\"\xef\xbf\xbd\xc3\xa9\"");
    fixture_close(&f);
}

TEST(values_without_a_json_form_are_refused_by_path)
{
    fixture f = fixture_open(NULL);
    CHECK_FAILS(&f, "require 'qhost'.json.encode{a = {1, {b = print}}}", QH_TASK_FAILED,
                "test:1: a[2].b: a function has no JSON form");
    CHECK_FAILS(&f, "require 'qhost'.json.encode{1, x = 2}", QH_TASK_FAILED,
                "a list may have the keys 1..n only, without holes");
    CHECK_FAILS(&f, "require 'qhost'.json.encode{1, nil, 3, [7] = 1}", QH_TASK_FAILED,
                "without holes");
    CHECK_FAILS(&f, "require 'qhost'.json.encode{[2] = 1}", QH_TASK_FAILED,
                "an object may have string keys only");
    CHECK_FAILS(&f, "require 'qhost'.json.encode{x = 0/0}", QH_TASK_FAILED,
                "x: JSON has no NaN and no infinity");
    CHECK_FAILS(&f, "local t = {} t.t = t require 'qhost'.json.encode(t)", QH_TASK_FAILED,
                "nested too deep, or within itself");
    CHECK_FAILS(&f,
                "local s, t = ('x'):rep(1 << 20), {} for i = 1, 40 do t[i] = s end require "
                "'qhost'.json.encode(t)",
                QH_TASK_FAILED, "more than 32 MiB of JSON");
    fixture_close(&f);
}

TEST(jansson_values_pass_both_ways)
{
    fixture f = fixture_open(NULL);
    lua_State *L = qh_vm_lua(f.vm);
    static const char TEXT[] = "{\"z\":[1,2.5,null,true,\"\xc3\xa9\"],\"a\":{},\"b\":[]}";
    json_t *in = json_loads(TEXT, 0, NULL), *out;
    qh_err err = {0};
    qh_json_push(L, in);
    CHECK_OK(qh_json_read(L, -1, &out, &err));
    char *text = json_dumps(out, JSON_COMPACT);
    CHECK_STR(text, TEXT);
    CHECK_INT(lua_gettop(L), 1);
    free(text);
    json_decref(in), json_decref(out);
    lua_settop(L, 0);
    fixture_close(&f);
}

TEST_MAIN()

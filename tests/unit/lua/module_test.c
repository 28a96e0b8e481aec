#include "vm_fixture.h"
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[PATH_MAX];

static void put(const char *name, const char *text)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

static fixture open_in_folder(void)
{
    char name[] = "/tmp/qh_module_XXXXXX", path[PATH_MAX + 64];
    realpath(mkdtemp(name), folder);
    snprintf(path, sizeof path, "%s/lib", folder);
    mkdir(path, 0700);
    return fixture_open(folder);
}

static void close_folder(fixture *f)
{
    fixture_close(f);
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK_INT(system(command), 0);
}

TEST(modules_come_from_the_apps_folder_once)
{
    fixture f = open_in_folder();
    put("a.lua", "local name, path = ... return {name = name, path = path, b = require 'lib.b'}");
    put("lib/b.lua", "return {n = 7}");
    CHECK_RUN(&f,
              "local a = require 'a' return a.name .. a.b.n .. tostring(require 'a' == a) .. "
              "a.path:match('[^/]*$')",
              "a7truea.lua");
    CHECK_INT(qh_vm_n_files(f.vm), 2);
    close_folder(&f);
}

TEST(an_init_file_stands_for_its_folder)
{
    fixture f = open_in_folder();
    put("lib/init.lua", "return 'whole'");
    CHECK_RUN(&f, "return require 'lib'", "whole");
    close_folder(&f);
}

TEST(nothing_outside_the_folder_can_be_required)
{
    fixture f = open_in_folder();
    char link[PATH_MAX + 64];
    snprintf(link, sizeof link, "%s/out.lua", folder);
    CHECK_INT(symlink("/etc/passwd", link), 0);
    static const char *const NAMES[] = {"../x", "/etc/passwd", "lib/b", "..", "a..b",
                                        ".a",   "a.",          "a\\0b", ""};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        char source[100];
        snprintf(source, sizeof source, "require '%s'", NAMES[i]);
        CHECK_FAILS(&f, source, QH_TASK_FAILED, "is no module name");
    }
    CHECK_FAILS(&f, "require 'out'", QH_TASK_FAILED, "leads out of the app's folder");
    CHECK_FAILS(&f, "require 'none'", QH_TASK_FAILED, "No such file");
    CHECK_FAILS(&f, "require 'qhost.none'", QH_TASK_FAILED,
                "module 'qhost.none' is not part of the qhost library");
    close_folder(&f);
}

TEST(a_broken_module_says_where_and_can_be_tried_again)
{
    fixture f = open_in_folder();
    put("bad.lua", "return {\n  a = = 1\n}");
    CHECK_FAILS(&f, "require 'bad'", QH_TASK_FAILED, "bad.lua:2: unexpected symbol near '='");
    put("bad.lua", "error 'at load'");
    CHECK_FAILS(&f, "require 'bad'", QH_TASK_FAILED, "bad.lua:1: at load");
    put("bad.lua", "return 'good'");
    CHECK_RUN(&f, "return require 'bad'", "good");
    put("big.lua", "");
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/big.lua", folder);
    CHECK_INT(truncate(path, 2 << 20), 0);
    CHECK_FAILS(&f, "require 'big'", QH_TASK_FAILED, "a script may have 1048576");
    put("bin.lua", "\033Lua");
    CHECK_FAILS(&f, "require 'bin'", QH_TASK_FAILED, "binary chunk");
    close_folder(&f);
}

TEST(circles_are_refused_and_two_tasks_share_one_load)
{
    fixture f = open_in_folder();
    put("a.lua", "return require 'b'");
    put("b.lua", "return require 'a'");
    put("slow.lua", "require 'qhost'.sleep(0.01) return {}");
    CHECK_FAILS(&f, "require 'a'", QH_TASK_FAILED, "module 'a' requires itself");
    outcome x, y;
    qh_task_start(task_of(&f, "return require 'slow'", &x));
    qh_task_start(task_of(&f, "return require 'slow'", &y));
    finish(&f, &x);
    finish(&f, &y);
    CHECK_STR(qh_str_z(&x.text), qh_str_z(&y.text));
    qh_str_deinit(&x.text), qh_str_deinit(&y.text);
    close_folder(&f);
}

TEST(the_library_cannot_be_changed)
{
    fixture f = open_in_folder();
    CHECK_FAILS(&f, "require 'qhost'.sleep = 1", QH_TASK_FAILED, "qhost.sleep cannot be changed");
    CHECK_FAILS(&f, "require 'qhost'.json.decode = 1", QH_TASK_FAILED,
                "qhost.json.decode cannot be changed");
    CHECK_FAILS(&f, "require 'qhost'.template.jinja = 1", QH_TASK_FAILED,
                "qhost.template.jinja cannot be changed");
    CHECK_FAILS(&f, "setmetatable(require 'qhost'.template, {})", QH_TASK_FAILED,
                "protected metatable");
    CHECK_RUN(&f, "return type(require 'qhost'.template{render = function() end})", "table");
    CHECK_FAILS(&f, "require 'qhost.jinja'.compile = 1", QH_TASK_FAILED,
                "qhost.jinja.compile cannot be changed");
    CHECK_RUN(&f, "return require('qhost.jinja').compile('{{ a }}!', {}):render_text({a = 'x'})",
              "x!");
    close_folder(&f);
}

TEST_MAIN()

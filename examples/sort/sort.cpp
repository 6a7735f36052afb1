// Sorts the lines of standard input by their bytes: -r the other way round, -u each line once.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

static std::vector<std::string> lines_of(std::FILE *file) {
    std::vector<std::string> lines;
    std::string line;
    for (int c; (c = std::getc(file)) != EOF;) {
        if (c == '\n') {
            lines.push_back(std::move(line));
            line.clear();
        } else {
            line.push_back(static_cast<char>(c));
        }
    }
    if (!line.empty())
        lines.push_back(std::move(line));
    return lines;
}

int main(int argc, char **argv) {
    bool reverse = false, unique = false;
    for (int i = 1; i < argc; i++) {
        std::string_view option = argv[i];
        if (option != "-r" && option != "-u") {
            std::fprintf(stderr, "usage: sort [-r] [-u]\n");
            return 2;
        }
        (option == "-r" ? reverse : unique) = true;
    }
    auto lines = lines_of(stdin);
    if (reverse)
        std::sort(lines.begin(), lines.end(), std::greater<>());
    else
        std::sort(lines.begin(), lines.end());
    if (unique)
        lines.erase(std::unique(lines.begin(), lines.end()), lines.end());
    for (const auto &line : lines) {
        std::fwrite(line.data(), 1, line.size(), stdout);
        std::putchar('\n');
    }
    return 0;
}

"""Our own kernel: what it is found by, what its build says when it fails, and the image that takes it.

Sources here are no Linux, but real packages with a Makefile, which make runs.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import msgspec
import pytest

from keep_image.build import _kernel_components
from keep_image.errors import BuildError, PackageError
from keep_image.kernel_tools import check_tools, kernel_tools
from keep_image.manifest import Origin
from keep_image.own_kernel import CONFIG, KernelFacts, KernelStore, Recipe, kernel_folder, recipe, unmet_options
from keep_image.package_store import PackageStore, default_cache
from keep_image.pins import DebianPackage, PackageUse, load_pins
from tests.unit.keep_image.test_images import run
from tests.unit.keep_image.test_packages import debian_package, pin

TOOLS = ("cc 1.0", "ld 2.0", "lz4 3.0")
OPTIONS = b"# why\nCONFIG_A=y\nCONFIG_B=y\n"
MAKEFILE = """\
allnoconfig:
\tcp $(KCONFIG_ALLCONFIG) $(O)/.config
bzImage:
\tmkdir -p $(O)/arch/x86/boot $(O)/include/config
\tprintf '%s' "made by $$KBUILD_BUILD_USER with flags '$$CFLAGS'" > $(O)/arch/x86/boot/bzImage
\techo 6.12-keep > $(O)/include/config/kernel.release
\techo built >> {counter}
"""


def source_package(makefile: str, name: str = "linux-source-6.12") -> bytes:
    """A package as Debian's kernel team makes them: one archive, with one folder in it."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        entry = tarfile.TarInfo(f"{name}/Makefile")
        entry.size = len(makefile.encode())
        archive.addfile(entry, io.BytesIO(makefile.encode()))
    return debian_package({f"usr/src/{name}.tar.xz": inner.getvalue()})


class Workshop:
    """A store of kernels, and packages that need no network."""

    def __init__(self, folder: Path) -> None:
        self.counter = folder / "counter"
        self.kernels = KernelStore(folder / "kernels")
        self.folder = folder
        self._packages = folder / "packages"
        self._packages.mkdir()

    def recipe(self, makefile: str, *, options: bytes = OPTIONS) -> Recipe:
        content = source_package(makefile.replace("{counter}", str(self.counter)))
        source = msgspec.structs.replace(pin(content, "linux-source-6.12"), use=PackageUse.SOURCE)
        (self._packages / source.file_name).write_bytes(content)
        return Recipe(source, options, TOOLS)

    @property
    def packages(self) -> PackageStore:
        return PackageStore(self.folder / "cache", folder=self._packages)

    @property
    def builds(self) -> int:
        return len(self.counter.read_text().splitlines())


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    if missing := [program for program in ("make", "tar", "xz") if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    return Workshop(tmp_path)


def test_a_kernel_is_compiled_once_and_found_by_its_recipe(workshop: Workshop) -> None:
    recipe = workshop.recipe(MAKEFILE)
    assert workshop.kernels.find(recipe) is None
    kernel = workshop.kernels.build(recipe, workshop.packages, jobs=2)
    assert kernel.path.read_bytes().startswith(b"made by keep")
    assert kernel.made_config.read_bytes() == OPTIONS
    assert (kernel.facts.release, kernel.facts.tools) == ("6.12-keep", TOOLS)
    assert kernel.facts.source_sha256 == recipe.source.sha256
    assert workshop.kernels.build(recipe, workshop.packages, jobs=2) == kernel
    assert workshop.builds == 1
    assert [each.name for each in (workshop.folder / "kernels").iterdir()] == [recipe.digest]


def test_nothing_of_the_builders_environment_reaches_the_kernel(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("MAKEFLAGS", "--jobs=7")
    kernel = workshop.kernels.build(workshop.recipe(MAKEFILE), workshop.packages, jobs=1)
    assert kernel.path.read_bytes() == b"made by keep with flags ''"


def test_a_damaged_kernel_is_compiled_anew(workshop: Workshop) -> None:
    recipe = workshop.recipe(MAKEFILE)
    kernel = workshop.kernels.build(recipe, workshop.packages, jobs=1)
    content = kernel.path.read_bytes()
    kernel.path.write_bytes(content + b"!")
    assert workshop.kernels.find(recipe) is None
    assert workshop.kernels.build(recipe, workshop.packages, jobs=1).path.read_bytes() == content
    assert workshop.builds == 2


def test_another_source_other_options_and_other_tools_are_other_kernels() -> None:
    source = DebianPackage("linux-source-6.12", "1", PackageUse.SOURCE, "pool/l/linux.deb", 1, "0" * 64)
    other_source = msgspec.structs.replace(source, sha256="1" * 64)
    digests = {
        Recipe(source, OPTIONS, TOOLS).digest,
        Recipe(other_source, OPTIONS, TOOLS).digest,
        Recipe(source, OPTIONS + b"\n", TOOLS).digest,
        Recipe(source, OPTIONS, ("cc 1.1", *TOOLS[1:])).digest,
        Recipe(source, OPTIONS, ("cc 1.0ld 2.0", *TOOLS[2:])).digest,
    }
    assert len(digests) == 5
    # Where the archive has it does not matter.
    moved = msgspec.structs.replace(source, path="pool/main/l/linux.deb")
    assert Recipe(moved, OPTIONS, TOOLS).digest == Recipe(source, OPTIONS, TOOLS).digest


def test_a_build_that_fails_shows_its_last_lines_and_keeps_nothing(workshop: Workshop) -> None:
    lines = "\n".join(f"\t@echo line {number}" for number in range(30))
    makefile = f"allnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) $(O)/.config\nbzImage:\n{lines}\n\t@echo odd >&2; exit 1\n"
    with pytest.raises(BuildError, match="status 2; its last lines:") as failed:
        workshop.kernels.build(workshop.recipe(makefile), workshop.packages, jobs=1)
    assert "line 29\n  odd" in str(failed.value)
    assert "line 5\n" not in str(failed.value)
    assert list((workshop.folder / "kernels").iterdir()) == []


def test_an_option_that_the_source_does_not_take_is_named(workshop: Workshop) -> None:
    makefile = "allnoconfig:\n\tgrep -v CONFIG_B $(KCONFIG_ALLCONFIG) > $(O)/.config\n"
    with pytest.raises(BuildError, match=r"linux-source-6\.12 1\.0 does not take CONFIG_B=y of kernel\.config"):
        workshop.kernels.build(workshop.recipe(makefile), workshop.packages, jobs=1)


def test_a_source_that_is_not_the_pinned_one_is_refused(workshop: Workshop) -> None:
    recipe = workshop.recipe(MAKEFILE)
    (workshop.folder / "packages" / recipe.source.file_name).write_bytes(source_package("all:\n"))
    with pytest.raises(PackageError, match=f"pinned is {recipe.source.sha256}"):
        workshop.kernels.build(recipe, workshop.packages, jobs=1)


def test_a_package_that_is_no_source_is_refused(workshop: Workshop) -> None:
    content = debian_package({"usr/bin/thing": b""})
    source = pin(content)
    (workshop.folder / "packages" / source.file_name).write_bytes(content)
    with pytest.raises(BuildError, match=r"has no usr/src/thing\.tar\.xz"):
        workshop.kernels.build(Recipe(source, OPTIONS, TOOLS), workshop.packages, jobs=1)


def test_a_folder_that_cannot_be_written_is_named(workshop: Workshop) -> None:
    (workshop.folder / "file").write_bytes(b"")
    store = KernelStore(workshop.folder / "file" / "kernels")
    with pytest.raises(BuildError, match="no kernel can be made in"):
        store.build(workshop.recipe(MAKEFILE), workshop.packages, jobs=1)


def test_missing_programs_are_named_with_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"apt-get install gcc binutils lz4$"):
        kernel_tools()
    with pytest.raises(BuildError, match=r"apt-get install bc bison flex gcc binutils lz4 make tar xz-utils$"):
        check_tools()


def test_a_missing_library_is_found_by_linking_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("bc", "bison", "flex", "ld", "lz4", "make", "tar", "xz"):
        (tmp_path / program).symlink_to("/bin/true")
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\nif /bin/grep -q gelf.h; then exit 1; fi\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"apt-get install libelf-dev$"):
        check_tools()


def test_an_image_of_our_kernel_names_source_options_and_result() -> None:
    pins = load_pins()
    facts = KernelFacts("6.12.1-keep", "a" * 64, 1, "linux", pins.kernel_source.sha256, "c" * 64, TOOLS)
    components = {each.name: each for each in _kernel_components(pins, b"kernel", facts)}
    assert (components["linux"].version, components["linux"].origin) == ("6.12.1-keep", Origin.BUILT)
    assert components["linux-source-6.12"].sha256 == pins.kernel_source.sha256
    assert components["kernel.config"].sha256 == "c" * 64
    assert pins.kernel.name not in components


def test_an_image_of_our_kernel_says_how_to_compile_one_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("gcc") is None or shutil.which("lz4") is None:
        pytest.skip("gcc and lz4 are not installed")
    status, _, error = run(
        capsys, *("image", "build", "--kernel", "own", "--cache", str(tmp_path), "--output", str(tmp_path / "image"))
    )
    assert status != 0
    assert "keep-manager image kernel build" in error
    assert not (tmp_path / "image").exists()


def test_every_option_says_what_it_is_and_none_is_a_module() -> None:
    lines = CONFIG.read_text().splitlines()
    options = [line for line in lines if line and not line.startswith("#")]
    assert all(option.startswith("CONFIG_") and not option.endswith(("=m", "=n")) for option in options)
    assert len({option.partition("=")[0] for option in options}) == len(options)
    assert "CONFIG_MODULES=y" not in options
    # Each group begins with its reason.
    assert all(group.startswith("#") for group in CONFIG.read_text().split("\n\n"))


def test_the_kept_kernel_has_every_option_that_was_asked_for() -> None:
    try:
        ours = recipe(load_pins().kernel_source, kernel_tools())
    except BuildError as error:
        pytest.skip(str(error))
    kernel = KernelStore(kernel_folder(default_cache())).find(ours)
    if kernel is None:
        pytest.skip("no kernel of ours is kept here: `keep-manager image kernel build`, some ten minutes")
    made = kernel.made_config.read_text()
    assert unmet_options(CONFIG.read_text(), made) == []
    assert "=m\n" not in made

"""How libtool is installed. Every requirement says why it is there."""

from setuptools import find_packages, setup

setup(
    name="libtool",
    version="0.1.0",
    description="Librarians that move files between sites, prove that they arrived, and remember where the copies are",
    long_description=open("README.rst", encoding="utf-8").read(),
    long_description_content_type="text/x-rst",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["libtool", "libtool.*"]),
    package_data={"libtool.models.migrations": ["*.sql"]},
    install_requires=[
        "click>=8.1",  # the command line
        "peewee>=4.1",  # the catalogue
        "globus-sdk>=4.1,<5",  # the carrier between sites
        "requests>=2.28",  # peers over http
        "keyring>=24",  # the last place where a secret is looked for
        "rich>=13",  # tables and progress on a terminal
        "pyyaml>=6",  # the configuration
        "msgspec>=0.18",  # typed, bounded messages: a peer's JSON is checked while it is read, in C
        "xxhash>=3",  # the checksum that all librarians use for new files
        "cryptography>=41",  # encrypts the peers' passwords in the database; globus-sdk needs it anyway
    ],
    extras_require={
        "postgres": ["psycopg2-binary>=2.9"],  # the driver that peewee starts fastest with
        "test": ["pytest>=8", "hypothesis>=6.100"],  # runs the tests, and searches for what breaks the rules
    },
    entry_points={
        "console_scripts": [
            "libtool = libtool.__main__:main",
            "libtool-callback = libtool.commands.callback:main",
        ]
    },
)

"""Build msdn_nb from settings.ini, the one home of its metadata."""
import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
settings = ConfigParser(interpolation=None)
settings.read(HERE/'settings.ini', encoding='utf-8')
package = settings['package']


def lines(text): return [line for line in text.split('\n') if line.strip()]
def read(name): return (HERE/name).read_text(encoding='utf-8')


class BuildWithExamples(build_py):
    "Copy the top-level `examples/` into the wheel as `msdn_nb/examples/`; an editable install finds them where they lie."
    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False) and (HERE/'examples').is_dir():
            shutil.copytree(HERE/'examples', Path(self.build_lib)/package['name']/'examples', dirs_exist_ok=True)


setup(
    name=package['name'],
    version=re.search(r'^__version__\s*=\s*[\'"](.+?)[\'"]', read('msdn_nb/__init__.py'), re.M).group(1),
    description=package['description'],
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    author=package['author'],
    license=package['license'],
    license_files=['LICENSE'],
    keywords=package['keywords'].split(),
    classifiers=[
        f"Development Status :: {package['status']}",
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Physics',
    ],
    python_requires=package['python'],
    install_requires=[line for group in settings['requirements'].values() for line in lines(group)],
    extras_require={name: lines(text) for name, text in settings['extras'].items()},
    packages=find_packages(include=['msdn_nb', 'msdn_nb.*']),
    package_data={'msdn_nb': ['data/*', 'weights/*']},
    entry_points={
        'console_scripts': lines(package['console_scripts']),
        'nbdev': [f"{package['name']} = {package['name']}._modidx:d"],
    },
    cmdclass={'build_py': BuildWithExamples},
    zip_safe=False,
)

# Passed as CMAKE_PROJECT_INCLUDE when ROS 2 comes from Python wheels.  Runs once the whole project has been read.
#
# The wheels export include directories of the machine that built them; CMake refuses imported targets with directories
# that do not exist.  And with the environment inside the source tree, our own exported targets name directories of the
# source tree (NumPy's), which CMake refuses as well: those serve the build only.
function(densefit_mend_includes)
  get_property(imported DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  get_property(built DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS imported built)
    get_target_property(dirs ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT dirs)
      continue()
    endif()
    set(kept "")
    foreach(dir IN LISTS dirs)
      if(dir MATCHES "\\$<")
        list(APPEND kept "${dir}")
      elseif(NOT IS_DIRECTORY "${dir}")
        continue()
      elseif(target IN_LIST built AND dir MATCHES "^${CMAKE_SOURCE_DIR}/")
        list(APPEND kept "$<BUILD_INTERFACE:${dir}>")
      else()
        list(APPEND kept "${dir}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

if(NOT DENSEFIT_MEND_DEFERRED)
  set(DENSEFIT_MEND_DEFERRED TRUE)
  cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL densefit_mend_includes)
endif()
